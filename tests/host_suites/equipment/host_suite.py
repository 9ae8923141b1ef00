"""A pytest plugin for a host's suite: our server, our instrumentation, and what each test came to.

Some suites insist on a Redis at its usual port. They get ours, and never one of this machine: they
empty it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
import wrapt
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otel_queue_bridge

if TYPE_CHECKING:
    import pytest

USUAL = 6379
OURS = urlsplit(os.environ["HOST_SUITE_REDIS"]).port

outcomes: dict[str, str] = {}
spans = InMemorySpanExporter()


def pytest_configure() -> None:
    for connection in (redis.Connection, redis.asyncio.Connection):
        wrapt.wrap_function_wrapper(connection, "__init__", _redirect)
    if os.environ["HOST_SUITE_INSTRUMENTED"]:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(spans))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
        otel_queue_bridge.instrument(os.environ["HOST_SUITE"])


def _redirect(wrapped: Any, _: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if kwargs.get("port", USUAL) == USUAL:
        kwargs["port"] = OURS
    wrapped(*args, **kwargs)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # A test with subtests has a report for each, under one name.
    if outcomes.get(report.nodeid) == "failed":
        return
    if report.when == "call" or report.outcome != "passed":
        outcomes[report.nodeid] = report.outcome


def pytest_sessionfinish() -> None:
    if os.environ["HOST_SUITE_INSTRUMENTED"] and not spans.get_finished_spans():
        outcomes["(no span was recorded)"] = "failed"
    Path(os.environ["HOST_SUITE_OUTCOMES"]).write_text(json.dumps(outcomes))
    # Python waits for them at its end: one that a failed test left would keep it forever.
    for child in multiprocessing.active_children():
        child.kill()
