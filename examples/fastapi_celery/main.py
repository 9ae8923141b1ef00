"""The article's app and its task; two spans are the app's own, the rest needs no line here."""

import os

import numpy as np
import pandas as pd
from celery import Celery
from fastapi import FastAPI
from opentelemetry import trace

app = FastAPI()
celery_app = Celery("worker", broker=os.environ["BROKER_URL"])
celery_app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_prefetch_multiplier=1,  # the rest waits at the broker, where the queue depth counts it
)
tracer = trace.get_tracer(__name__)


@app.get("/process")
async def process(rows: int = 1000) -> dict[str, str]:
    with tracer.start_as_current_span("numpy.compute"):
        np.random.default_rng().random(1_000_000).sum()
    background_task.delay(rows)
    return {"status": "queued"}


@celery_app.task
def background_task(rows: int) -> None:
    with tracer.start_as_current_span("pandas.compute"):
        df = pd.DataFrame({"x": range(rows)})
        df["y"] = df["x"] * 2
        if df.empty:
            raise ValueError("no rows")
        df.sum().sum()
