"""A user's Dramatiq app with a fork function, which does nothing but submit."""

import os
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["APP_BROKER"]))


@dramatiq.actor
def ok() -> None:
    pass


def feed() -> int:
    for _ in range(int(os.environ["APP_TASKS"])):
        ok.send()
    print("fed", flush=True)
    while True:
        time.sleep(1)
