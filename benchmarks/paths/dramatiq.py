"""Dramatiq: a Redis broker's message, from its consumer to the end of a worker thread's work."""

from __future__ import annotations

from queue import PriorityQueue
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.worker import _ConsumerThread, _WorkerThread

from benchmarks.paths import Facts

if TYPE_CHECKING:
    from collections.abc import Callable

_SERVER = {"server.address": "localhost", "server.port": 6379, "dramatiq.transport": "redis"}


class _Broker(RedisBroker):
    """A broker that keeps the message that was enqueued last, and delivers it again and again."""

    kept = b""

    def do_enqueue(self, _: str, __: str, message: bytes) -> None:
        self.kept = message

    def do_fetch(self, *_: object) -> list[bytes]:
        return [self.kept]

    def do_ack(self, *_: object) -> None:
        pass


class Paths:
    facts = Facts(
        task="add",
        destination="default",
        submitted=_SERVER,
        worked=_SERVER,
    )

    def __init__(self) -> None:
        self._broker = _Broker(host="localhost")
        self._add = dramatiq.actor(_add, broker=self._broker, actor_name="add")

    def submit(self) -> None:
        self._add.send(2, 3)

    def worker(self) -> Callable[[], None]:
        broker, queue = self._broker, "default"
        waiting: PriorityQueue[Any] = PriorityQueue()
        options: dict[str, Any] = {"broker": broker, "work_queue": waiting, "worker_timeout": 1000}
        consumer = _ConsumerThread(queue_name=queue, prefetch=2, **options)
        consumer.consumer = broker.consume(queue)
        thread = _WorkerThread(consumers={queue: consumer}, **options)

        def work() -> None:
            consumer.handle_message(next(consumer.consumer))
            thread.process_message(waiting.get().message)

        return work


def _add(x: int, y: int) -> None:
    del x, y  # a result would be logged as discarded
