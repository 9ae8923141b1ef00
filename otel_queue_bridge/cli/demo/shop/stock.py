"""Left to RQ: more goods for the warehouse."""

from __future__ import annotations

import os

from opentelemetry import trace
from redis import Redis
from rq import Queue

warehouse = Queue("warehouse", connection=Redis.from_url(os.environ["SHOP_BROKER"]))
tracer = trace.get_tracer(__name__)


def fill(count: int) -> int:
    with tracer.start_as_current_span("stock.count"):
        return sum(range(count * 100_000))


async def leave(prices: list[float]) -> None:
    warehouse.enqueue(fill, len(prices))
