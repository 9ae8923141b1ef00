"""Left to Huey: the label of the parcel."""

from __future__ import annotations

import os

from huey import RedisHuey
from opentelemetry import trace

huey = RedisHuey("shop", url=os.environ["SHOP_BROKER"])
tracer = trace.get_tracer(__name__)


@huey.task()  # type: ignore[untyped-decorator]
def label(count: int) -> int:
    with tracer.start_as_current_span("label.draw"):
        return sum(number % 7 for number in range(count * 100_000))


async def leave(prices: list[float]) -> None:
    label(len(prices))
