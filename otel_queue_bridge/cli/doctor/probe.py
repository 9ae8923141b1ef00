"""Send one real span through the exporter that the environment configures."""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from otel_queue_bridge.cli.doctor.findings import ok, problem
from otel_queue_bridge.cli.masking import header_values, masked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from otel_queue_bridge.cli.doctor.findings import Finding

NAME = "otel-queue-bridge doctor"


class _Heard(logging.Handler):
    """Keeps what the exporter logs: it reports its errors nowhere else."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said = "no reason given"

    def emit(self, record: logging.LogRecord) -> None:
        self.said = record.getMessage()


def send(exporter: str, environment: Mapping[str, str]) -> Finding:
    """Send a span and report whether it was accepted; this lasts as long as the exporter tries."""
    # Imported this late because doctor also runs where there is no SDK.
    from opentelemetry.instrumentation.utils import suppress_instrumentation  # noqa: PLC0415
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415

    span = TracerProvider(sampler=ALWAYS_ON).get_tracer("otel_queue_bridge.doctor").start_span(NAME)
    span.end()
    if not isinstance(span, ReadableSpan):
        return ok("no span was sent: the SDK is disabled")
    (point, *_) = entry_points(group="opentelemetry_traces_exporter", name=exporter)
    heard = _Heard()
    logger = logging.getLogger("opentelemetry")
    logger.addHandler(heard)
    try:
        with suppress_instrumentation():
            configured = point.load()()
            accepted = configured.export([span]).name == "SUCCESS"
            configured.shutdown()
    except Exception as error:  # noqa: BLE001 - the user must see any error of any exporter
        accepted, heard.said = False, f"{type(error).__name__}: {error}"
    finally:
        logger.removeHandler(heard)
    if accepted:
        return ok(
            f"a span {NAME!r} was accepted", trace_id=f"{span.get_span_context().trace_id:032x}"
        )
    return problem(
        f"a span was not accepted: {masked(heard.said, header_values(environment))}",
        "401 or 403: correct OTEL_EXPORTER_OTLP_HEADERS; 404: correct the path of the endpoint",
    )
