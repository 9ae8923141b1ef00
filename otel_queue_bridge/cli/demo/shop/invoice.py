"""Left to Dramatiq: an invoice."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from opentelemetry import trace

dramatiq.set_broker(RedisBroker(url=os.environ["SHOP_BROKER"]))  # type: ignore[no-untyped-call]
tracer = trace.get_tracer(__name__)


@dramatiq.actor(actor_name="shop.invoice")
def invoice(prices: list[float]) -> None:
    with tracer.start_as_current_span("invoice.print"):
        "\n".join(f"{number:4} {price:10.2f}" for number, price in enumerate(prices * 10_000))


async def leave(prices: list[float]) -> None:
    invoice.send(prices)
