"""A Celery app whose log lines carry the trace; only its two log formats mention it."""

import os

from celery import Celery
from celery.utils.log import get_task_logger

# OpenTelemetry's logging instrumentation adds these fields to each record.
TRACE = "[trace_id=%(otelTraceID)s span_id=%(otelSpanID)s]"

app = Celery("shop", broker=os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
app.conf.update(
    task_ignore_result=True,
    worker_log_format=f"%(levelname)s {TRACE} %(message)s",
    worker_task_log_format=f"%(levelname)s {TRACE} %(task_name)s: %(message)s",
)
logger = get_task_logger(__name__)


@app.task
def pack(order: int) -> None:
    logger.info("packing order %d", order)
    ship.delay(order)


@app.task
def ship(order: int) -> None:
    logger.info("shipping order %d", order)
