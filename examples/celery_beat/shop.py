"""A Celery app with a schedule; nothing in it is about tracing."""

import os

from celery import Celery

app = Celery("shop", broker=os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
app.conf.beat_schedule = {
    "count the stock": {"task": "shop.count", "schedule": 1.0},  # seconds
}


@app.task(ignore_result=True)
def count():
    print("12 boxes of tea")
