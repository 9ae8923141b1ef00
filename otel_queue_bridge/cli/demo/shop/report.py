"""Left to Celery: a report with pandas."""

from __future__ import annotations

import os

import pandas as pd  # type: ignore[import-untyped]
from celery import Celery
from opentelemetry import trace

celery = Celery("shop", broker=os.environ["SHOP_BROKER"])
celery.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
tracer = trace.get_tracer(__name__)


@celery.task(name="shop.report")  # type: ignore[untyped-decorator]
def report(prices: list[float]) -> dict[str, float]:
    with tracer.start_as_current_span("pandas.compute"):
        return dict(pd.Series(prices).sample(1_000_000, replace=True).describe())


async def leave(prices: list[float]) -> None:
    report.delay(prices)
