from __future__ import annotations

import os

from redis import Redis
from rq import Queue

from benchmarks import worker_apps

worker_apps.set_up("rq")
valkey = Redis.from_url(os.environ[worker_apps.URL])
queue = Queue("bench", connection=valkey)


def increment() -> None:
    valkey.incr(worker_apps.COUNTER)


def submit() -> None:
    queue.enqueue(increment, result_ttl=0)
