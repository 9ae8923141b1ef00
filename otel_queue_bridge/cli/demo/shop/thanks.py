"""Left to FastWorker: a letter of thanks."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastworker import task
from fastworker.clients.client import Client
from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

client = Client()
tracer = trace.get_tracer(__name__)


@task("shop.thanks")  # type: ignore[untyped-decorator]
def thanks(prices: list[float]) -> str:
    with tracer.start_as_current_span("letter.write"):
        return "\n".join(f"Thank you for {price:.2f}." for price in prices * 20_000)[:80]


@asynccontextmanager
async def connected() -> AsyncIterator[None]:
    await client.start()
    yield
    client.stop()


async def leave(prices: list[float]) -> None:
    await client.delay("shop.thanks", prices)
