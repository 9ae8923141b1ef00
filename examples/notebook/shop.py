"""The tasks: an invoice with pandas, which then has its parcel packed."""

import os

import pandas as pd
from celery import Celery
from opentelemetry import trace

app = Celery("shop", broker=os.environ["BROKER_URL"])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
tracer = trace.get_tracer(__name__)


@app.task(name="shop.invoice")
def invoice(prices: list[float]) -> None:
    with tracer.start_as_current_span("pandas.compute"):
        pd.Series(prices).sum()
    pack.delay(len(prices))


@app.task(name="shop.pack")
def pack(items: int) -> None:
    if not items:
        raise ValueError("nothing to pack")
