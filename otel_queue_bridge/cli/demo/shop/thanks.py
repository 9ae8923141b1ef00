"""Left to FastWorker: a letter of thanks."""

from __future__ import annotations

from fastworker import task
from fastworker.clients.client import Client
from opentelemetry import trace

client = Client()
tracer = trace.get_tracer(__name__)


@task("shop.thanks")  # type: ignore[untyped-decorator]
def thanks(prices: list[float]) -> str:
    with tracer.start_as_current_span("letter.write"):
        return "\n".join(f"Thank you for {price:.2f}." for price in prices * 20_000)[:80]
