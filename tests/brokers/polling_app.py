"""A user's tasks in three queues on one Redis; also submits one of them."""

import os
import sys

import dramatiq
from celery import Celery
from dramatiq.brokers.redis import RedisBroker
from redis import Redis
from rq import Queue

URL = os.environ["APP_BROKER"]

app = Celery("polling", broker=URL)
app.conf.worker_send_task_events = True
app.conf.broker_transport_options = {"visibility_timeout": 3600, "polling_interval": 1}

dramatiq.set_broker(RedisBroker(url=URL, heartbeat_timeout=1000, maintenance_chance=1_000_000))


def fetch() -> None:
    """Ask Redis on behalf of the user."""
    with Redis.from_url(URL) as redis:
        redis.get("of the user")


@app.task(name="celery")
def in_celery() -> None:
    fetch()


@dramatiq.actor(actor_name="dramatiq")
def in_dramatiq() -> None:
    fetch()


def in_rq() -> None:
    fetch()


def main(queue: str) -> None:
    if queue == "celery":
        in_celery.delay()
    elif queue == "dramatiq":
        in_dramatiq.send()
        in_dramatiq.send_with_options(delay=10)
    else:
        Queue(connection=Redis.from_url(URL)).enqueue(f"{__spec__.name}.in_rq")


if __name__ == "__main__":
    main(sys.argv[1])
