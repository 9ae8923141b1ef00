"""The workers of a consumer, be they threads, greenlets or processes: gauges, and the last export.

Each process counts for itself, and so does each worker that is a process.
"""

from __future__ import annotations

import os
import threading
import weakref
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Call, Reading, Recorder
from otel_queue_bridge.adapters.huey.queues import readings

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapters.huey.execute import Run

_CREW = "otel_crew"
"""The attribute of a Huey that holds its crew."""


class Crew:
    """The workers of one Huey in this process, and what they run."""

    def __init__(self, owner: object) -> None:
        self.owner = owner
        self.lock = threading.Lock()
        self.workers: set[Any] = set()
        self.running: set[Run] = set()
        self.restarts = False


def crew(huey: Any, recorder: Recorder) -> Crew:
    """Return the crew; that of a parent process, or of what has been undone, is left."""
    owner = os.getpid(), weakref.ref(recorder)
    found: Crew | None = vars(huey).get(_CREW)
    if found is None:
        found = vars(huey).setdefault(_CREW, Crew(owner))
    if found.owner != owner:
        found = vars(huey)[_CREW] = Crew(owner)
    return found


def work(call: Call, recorder: Recorder) -> None:
    """Note a worker where it works: `on_startup` may have set up the SDK just before."""
    worker, huey = call.instance, call.instance.huey
    its = crew(huey, recorder)
    if worker in its.workers:
        return
    with its.lock:
        if not its.workers:
            recorder.watch_workers(lambda _: [_places(its)], huey)
            recorder.watch_depth(lambda it: readings(it, recorder), huey)
        its.workers.add(worker)


def end(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Note the end of a worker; the scheduler of a consumer with processes is one, too."""
    yield
    _leave(call.instance.huey, recorder, call.instance)
    if parent_process() is not None:  # a child of multiprocessing runs no exit handlers
        recorder.flush(metrics=True)


def stop(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Note that a consumer takes no more tasks; what its threads run may still end."""
    yield
    consumer, huey = call.instance, call.instance.huey
    crew(huey, recorder).restarts = consumer._restart  # noqa: SLF001 - by `os.execl`
    _leave(huey, recorder, *(worker for worker, _ in consumer.worker_threads))


def interrupt(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """End what ends with this process: `Consumer.run` says so last of all."""
    its = crew(call.instance, recorder)
    for run in tuple(its.running):
        run.interrupt()
    yield
    if its.restarts or parent_process() is not None:
        recorder.flush(metrics=True)


def _leave(huey: Any, recorder: Recorder, *workers: Any) -> None:
    its = crew(huey, recorder)
    with its.lock:
        its.workers.difference_update(workers)
        if not its.workers:
            recorder.close(huey)


def _places(its: Crew) -> Reading:
    workers = len(its.workers)
    return Reading(workers, busy=min(workers, len(its.running)))
