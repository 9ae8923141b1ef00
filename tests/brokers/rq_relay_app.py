"""A user's functions with spans of every kind, and the user's own span processors."""

import gc
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from rq.worker import Worker

tracer = trace.get_tracer("user", "1.0", attributes={"scope": "of the user"})
folder = Path(os.environ["APP_FOLDER"])


def note(*words: object) -> None:
    with (folder / "notes").open("a") as file:
        file.write(json.dumps([*words, os.getpid()]) + "\n")


class Stamping(SpanProcessor):
    """Adds an attribute to every span that starts, and notes every span that ends."""

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        span.set_attribute("stamp", "of the user")

    def on_end(self, span: ReadableSpan) -> None:
        note("ended", span.name)


class Keeping(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            note("exported", span.name)
        return SpanExportResult.SUCCESS


class Exporting(SimpleSpanProcessor):
    """Exports each span at its end, in the process where it ended."""


class WithProcessors(Worker):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        provider = trace.get_tracer_provider()
        provider.add_span_processor(Stamping())
        provider.add_span_processor(Exporting(Keeping()))


def rich() -> None:
    """Make a span with everything that a span can have."""
    elsewhere = SpanContext(0xA, 0xB, is_remote=True, trace_flags=TraceFlags(1))
    with tracer.start_as_current_span(
        "rich",
        kind=SpanKind.CLIENT,
        links=[Link(elsewhere, {"why": "because"})],
        attributes={"flag": True, "whole": 2**62, "part": 0.1, "texts": ("ä", "b"), "none": ()},
    ) as span:
        span.add_event("event", {"size": 3}, timestamp=1_700_000_000_000_000_001)
        span.set_status(Status(StatusCode.ERROR, "it says"))
        note("rich", span.get_span_context().span_id)


def deep(depth: int = 150) -> None:
    """Fail with a stack that is too long for one write to the pipe."""
    if depth:
        deep(depth - 1)
    raise ValueError("deep " + "ü" * 5000)


def large() -> None:
    with tracer.start_as_current_span("large") as span:
        span.set_attribute("text", "x" * 200_000)
    with tracer.start_as_current_span("medium") as span:
        span.set_attribute("text", "y" * 50_000)


def many(number: int) -> None:
    for i in range(number):
        with tracer.start_as_current_span("one of many") as span:
            span.set_attribute("i", i)


def forks() -> None:
    """Let a forked process make spans and export them."""
    child = multiprocessing.get_context("fork").Process(target=grandchild)
    with tracer.start_as_current_span("parent"):
        child.start()
        child.join()
    note("grandchild", child.exitcode)


def grandchild() -> None:
    with tracer.start_as_current_span("grandchild"):
        pass
    trace.get_tracer_provider().force_flush()


def gate(number: int = 0) -> None:
    note("gate", os.getppid())
    deadline = time.monotonic() + 170  # RQ itself gives a job 180 s
    while not (folder / "gate").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    many(number)
    note("passed")


def busy() -> None:
    """Make spans for longer than the job may take, and return if nothing stops it."""
    # Some code swallows an exception that a signal raises in it: a `__del__`, a handler of
    # `logging`, and the API when it detaches a span. So no span in here is made current.
    gc.disable()
    logging.disable()
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        tracer.start_span("one of many").end()
    note("ran on")


def quick() -> None:
    with tracer.start_as_current_span("inner"):
        note("quick")
