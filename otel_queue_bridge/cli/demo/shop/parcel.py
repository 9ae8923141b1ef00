"""Left to ARQ: a parcel for the courier."""

from __future__ import annotations

import math
import os
from typing import Any

from arq import func
from arq.connections import RedisSettings
from opentelemetry import trace

courier = RedisSettings.from_dsn(os.environ["SHOP_BROKER"])
tracer = trace.get_tracer(__name__)


async def parcel(_: dict[str, Any], prices: list[float]) -> float:
    with tracer.start_as_current_span("courier.book"):
        return sum(math.sqrt(price) for price in prices * 20_000)


class WorkerSettings:
    functions = (func(parcel, name="shop.parcel"),)  # type: ignore[arg-type] # it wants `*args`
    redis_settings = courier
