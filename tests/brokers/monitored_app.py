"""A user's tasks for a worker of one queue library; and what submits to all libraries."""

import json
import os
import sys
import threading
import time

import redis

QUEUE = "shop"
RETRIES = 5
LOAD = 0.5
"""Seconds between two tasks of the load on each library."""
PATIENCE = 120.0
"""Seconds after which a task that blocks ends, whatever becomes of the test."""
URLS = json.loads(os.environ["APP_URLS"])
SYSTEM = os.environ.get("APP_SYSTEM")
"""The library of this worker; the caller has all of them."""
submits = {}


def succeed() -> None:
    pass


def fail() -> None:
    raise ValueError


def block() -> None:
    deadline = time.monotonic() + PATIENCE
    with redis.Redis.from_url(URLS["rq"]) as client:
        while not client.exists("released") and time.monotonic() < deadline:
            time.sleep(0.1)


if SYSTEM in (None, "celery"):
    from celery import Celery

    app = Celery(broker=URLS["celery"])
    app.conf.task_default_queue = QUEUE

    @app.task(name="retry", bind=True, max_retries=RETRIES)
    def celery_retry(self) -> None:
        raise self.retry(countdown=0)

    celery_tasks = {
        run.__name__: app.task(run, name=run.__name__) for run in (succeed, fail, block)
    }
    celery_tasks["retry"] = celery_retry
    submits["celery"] = lambda task: celery_tasks[task].delay()

if SYSTEM in (None, "dramatiq"):
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker
    from prometheus_client import start_http_server

    class Serve(dramatiq.Middleware):
        def after_process_boot(self, broker: dramatiq.Broker) -> None:
            start_http_server(int(os.environ["APP_PORT"]), "127.0.0.1")

    dramatiq_broker = RedisBroker(url=URLS["dramatiq"])
    dramatiq_broker.add_middleware(Serve())
    dramatiq.set_broker(dramatiq_broker)
    once = {"queue_name": QUEUE, "max_retries": 0}
    often = {"queue_name": QUEUE, "max_retries": RETRIES, "min_backoff": 100, "max_backoff": 100}
    actors = {
        run.__name__: dramatiq.actor(run, actor_name=run.__name__, **once)
        for run in (succeed, fail, block)
    }
    actors["retry"] = dramatiq.actor(fail, actor_name="retry", **often)
    submits["dramatiq"] = lambda task: actors[task].send()

if SYSTEM is None:
    from rq import Queue, Retry

    rq_queue = Queue(QUEUE, connection=redis.Redis.from_url(URLS["rq"]))
    rq_tasks = {"retry": (f"{__spec__.name}.retry", Retry(max=RETRIES))}
    submits["rq"] = lambda task: rq_queue.enqueue(
        f"{__spec__.name}.{task}", retry=Retry(max=RETRIES) if task == "retry" else None
    )


def retry() -> None:
    raise ValueError


def load() -> None:
    while True:
        for submit in submits.values():
            submit("succeed")
        time.sleep(LOAD)


def main() -> None:
    """Submit what each line asks for."""
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["task"] == "load":
            threading.Thread(target=load, daemon=True).start()
        else:
            for submit in submits.values():
                for _ in range(asked["number"]):
                    submit(asked["task"])
        print("{}", flush=True)


if __name__ == "__main__":
    main()
