"""The web app: a forecast with numpy, and what can wait left to the queues."""

from __future__ import annotations

import os
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
from fastapi import FastAPI
from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

left_to = [import_module(name) for name in os.environ["SHOP_MODULES"].split(",")]


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with AsyncExitStack() as clients:
        for module in left_to:
            if hasattr(module, "connected"):
                await clients.enter_async_context(module.connected())
        yield


app = FastAPI(lifespan=lifespan)
tracer = trace.get_tracer(__name__)


@app.post("/orders", status_code=202)
async def order(prices: list[float]) -> dict[str, float]:
    with tracer.start_as_current_span("numpy.compute"):
        forecast = float(np.random.default_rng().choice(prices, 1_000_000).mean())
    for module in left_to:
        await module.leave(prices)
    return {"forecast": forecast}
