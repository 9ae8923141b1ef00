"""Left to Django Tasks: points for a customer who comes back."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import django
from django.core.management import call_command
from django.db import OperationalError
from opentelemetry import trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
django.setup()

try:
    from django.tasks import task
except ImportError:  # before Django 6.0
    from django_tasks import task

tracer = trace.get_tracer(__name__)


def make_tables() -> None:
    with suppress(OperationalError):  # web app and worker both do, and the other one was faster
        call_command("migrate", run_syncdb=True, verbosity=0)


@task  # type: ignore[untyped-decorator]
def points(prices: list[float]) -> int:
    with tracer.start_as_current_span("points.add"):
        return sum(int(price) for price in prices * 20_000) // 20_000


@asynccontextmanager
async def connected() -> AsyncIterator[None]:
    await asyncio.to_thread(make_tables)
    yield


async def leave(prices: list[float]) -> None:
    await points.aenqueue(prices)
