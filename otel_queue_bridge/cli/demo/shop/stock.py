"""Left to RQ: more goods for the warehouse."""

from __future__ import annotations

from opentelemetry import trace

tracer = trace.get_tracer(__name__)


def fill(count: int) -> int:
    with tracer.start_as_current_span("stock.count"):
        return sum(range(count * 100_000))
