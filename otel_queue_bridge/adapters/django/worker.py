"""The database worker: its gauges, what it asks its database by itself, and its last export."""

from __future__ import annotations

from contextlib import contextmanager
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Reading
from otel_queue_bridge.adapters.django.queues import Queues

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from contextlib import AbstractContextManager

    from otel_queue_bridge.adapter import Call, Recorder


def work(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    worker = call.instance
    recorder.watch_workers(lambda it: [Reading(1, busy=int(it.running_task))], worker)
    recorder.watch_depth(Queues(recorder).readings, worker)
    yield
    recorder.close(worker)
    if parent_process() is not None:  # a child of multiprocessing runs no exit handlers
        recorder.flush(metrics=True)


def claim(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Look for a task and claim it: all that a worker does in this transaction."""
    yield
    if call.error is None:
        call.result = _quiet(call.result, recorder)


@contextmanager
def _quiet(transaction: AbstractContextManager[Any], recorder: Recorder) -> Iterator[None]:
    with recorder.polling(), transaction:
        yield
