"""Left to ARQ: a courier for the parcel."""

from __future__ import annotations

import math
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from arq import create_pool, func
from arq.connections import ArqRedis, RedisSettings
from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

broker = RedisSettings.from_dsn(os.environ["SHOP_BROKER"])
pools: list[ArqRedis] = []
tracer = trace.get_tracer(__name__)


async def book(_: dict[str, Any], prices: list[float]) -> float:
    with tracer.start_as_current_span("courier.fee"):
        return sum(math.sqrt(price) for price in prices * 20_000)


class WorkerSettings:
    functions = (func(book, name="shop.courier"),)  # type: ignore[arg-type] # it wants `*args`
    redis_settings = broker


@asynccontextmanager
async def connected() -> AsyncIterator[None]:
    pools.append(await create_pool(broker))
    yield
    await pools.pop().aclose()


async def leave(prices: list[float]) -> None:
    await pools[0].enqueue_job("shop.courier", prices)
