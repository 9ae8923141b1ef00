"""Check what is patched in this process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from opentelemetry import trace

from otel_queue_bridge.cli.doctor.findings import ok, problem
from otel_queue_bridge.cli.doctor.loading import is_disabled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_queue_bridge.cli.doctor.findings import Finding
    from otel_queue_bridge.cli.doctor.libraries import Library
    from otel_queue_bridge.config import Config

_UNDER_INSTRUMENT = "opentelemetry.instrumentation.auto_instrumentation"
_READ_ITS_LOG = "correct the other problems, or read what opentelemetry-instrument logged"


def findings(
    environment: Mapping[str, str], libraries: list[Library], config: Config
) -> Iterator[Finding]:
    instrumentor = sys.modules.get("otel_queue_bridge.instrumentor")
    patched: Mapping[str, Config] = instrumentor.instrumented() if instrumentor else {}
    for queue, own in patched.items():
        yield ok(
            f"{queue}: submit, {'dispatch, ' if own.dispatch_spans else ''}execute; "
            f"metrics {'on' if own.metrics else 'off'}",
            queue=queue,
        )
    if _UNDER_INSTRUMENT not in sys.modules:
        if not patched:
            yield ok(
                "nothing, because doctor runs without opentelemetry-instrument",
                "to see what is patched: opentelemetry-instrument otel-queue-bridge doctor",
            )
        return
    missing = []
    for library in libraries:
        queue = library.queue
        chosen = config.queues is None or queue in config.queues
        if library.works and chosen and not is_disabled(queue, environment):
            if queue in patched or (config.conflicts == "yield" and library.rivals):
                continue
            missing.append(queue)
    if missing:
        # One finding, since they mostly have one cause.
        shown = ", ".join(missing)
        yield problem(f"not patched: {shown}", _READ_ITS_LOG, queues=shown)
    provider = trace.get_tracer_provider()
    if isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        yield problem("no SDK is configured: nothing is recorded", _READ_ITS_LOG)
