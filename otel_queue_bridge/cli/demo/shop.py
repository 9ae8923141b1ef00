"""The demo's web app: a forecast with numpy, and a report left to a Celery task."""

from __future__ import annotations

import numpy as np
from fastapi import FastAPI
from opentelemetry import trace

from otel_queue_bridge.cli.demo.tasks import report

app = FastAPI()
tracer = trace.get_tracer(__name__)


@app.post("/orders", status_code=202)
def order(prices: list[float]) -> dict[str, float]:
    with tracer.start_as_current_span("numpy.compute"):
        forecast = float(np.random.default_rng().choice(prices, 1_000_000).mean())
    report.delay(prices)
    return {"forecast": forecast}
