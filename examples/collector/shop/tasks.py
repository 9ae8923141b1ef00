"""The worker's tasks: some fail, some are slow; nothing in them is about tracing."""

import os
import random
import time

from celery import Celery

app = Celery("shop", broker=os.environ["REDIS_URL"])


@app.task(ignore_result=True, autoretry_for=(ConnectionError,), max_retries=3, retry_backoff=True)
def charge(order):
    if random.random() < 0.1:  # noqa: PLR2004, S311
        raise ConnectionError("the bank does not answer")
    pack.delay(order)


@app.task(ignore_result=True)
def pack(order):
    if order % 50 == 0:
        raise ValueError(f"order {order} is empty")
    time.sleep(8 if order % 40 == 0 else 0.1)
