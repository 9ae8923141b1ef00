"""The web app: a forecast with numpy, and what can wait left to the queues."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np
from fastapi import FastAPI
from opentelemetry import trace
from redis import Redis
from rq import Queue

from .invoice import invoice
from .loyalty import make_tables, points
from .report import report
from .stock import fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FASTWORKER = sys.version_info >= (3, 12)  # it needs that
if FASTWORKER:
    from .thanks import client


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await asyncio.to_thread(make_tables)
    if FASTWORKER:
        await client.start()
    yield
    if FASTWORKER:
        client.stop()


app = FastAPI(lifespan=lifespan)
tracer = trace.get_tracer(__name__)
warehouse = Queue("warehouse", connection=Redis.from_url(os.environ["SHOP_BROKER"]))


@app.post("/orders", status_code=202)
async def order(prices: list[float]) -> dict[str, float]:
    with tracer.start_as_current_span("numpy.compute"):
        forecast = float(np.random.default_rng().choice(prices, 1_000_000).mean())
    report.delay(prices)
    invoice.send(prices)
    warehouse.enqueue(fill, len(prices))
    await points.aenqueue(prices)
    if FASTWORKER:
        await client.delay("shop.thanks", prices)
    return {"forecast": forecast}
