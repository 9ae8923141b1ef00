from __future__ import annotations

import os

from celery import Celery
from redis import Redis

from benchmarks import worker_apps

worker_apps.set_up("celery")
app = Celery("bench", broker=os.environ[worker_apps.URL])
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
valkey = Redis.from_url(os.environ[worker_apps.URL])


@app.task
def increment() -> None:
    valkey.incr(worker_apps.COUNTER)


def submit() -> None:
    increment.delay()
