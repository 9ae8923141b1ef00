"""A user's script that works for RQ, with the SDK and the instrumentation where the test wants."""

import os
import sys
from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from redis import Redis
from rq import Queue, SimpleWorker, Worker

import otel_queue_bridge
from tests.brokers.sdk import set_up

APP = "tests.brokers.rq_setups_app"
connection = Redis.from_url(os.environ["APP_BROKER"])


def inner() -> None:
    pass


def outer() -> None:
    with trace.get_tracer("user").start_as_current_span("user"):
        Queue(connection=connection).enqueue(f"{APP}.inner")


ACTIONS: dict[str, Callable[[], object]] = {
    "sdk": set_up,
    "instrument": lambda: otel_queue_bridge.instrument("rq"),
}


def do(moment: str) -> None:
    """Do what the test wants at this moment, in the order in which it names it."""
    for action in os.environ.get(f"APP_{moment}", "").split():
        ACTIONS[action]()


class Forking(Worker):
    def main_work_horse(self, *args: Any, **kwargs: Any) -> Any:
        do("HORSE")
        return super().main_work_horse(*args, **kwargs)


if __name__ == "__main__":
    do("EARLY")
    kind = {"forking": Forking, "simple": SimpleWorker}[sys.argv[1]]
    worker = kind(["default"], connection=connection)
    do("LATE")
    worker.work(burst=True)
