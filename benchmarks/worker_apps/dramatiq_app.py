from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from redis import Redis

from benchmarks import worker_apps

worker_apps.set_up("dramatiq")
dramatiq.set_broker(RedisBroker(url=os.environ[worker_apps.URL]))
valkey = Redis.from_url(os.environ[worker_apps.URL])


@dramatiq.actor
def increment() -> None:
    valkey.incr(worker_apps.COUNTER)


def submit() -> None:
    increment.send()
