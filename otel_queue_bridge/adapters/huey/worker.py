"""The workers of a consumer, be they threads, greenlets or processes: gauges, and the last export.

Each process counts for itself, and so does each worker that is a process.
"""

from __future__ import annotations

from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Call, Reading, Recorder
from otel_queue_bridge.adapters.huey.queues import readings

if TYPE_CHECKING:
    from collections.abc import Generator


def start(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    yield
    worker, huey = call.instance, call.instance.huey
    workers = vars(huey).setdefault("otel_workers", set())
    workers.add(worker)
    if len(workers) == 1:
        recorder.watch_workers(_places, huey)
        recorder.watch_depth(lambda it: readings(it, recorder), huey)


def end(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Note the end of a worker; the scheduler of a consumer with processes is one, too."""
    yield
    huey = call.instance.huey
    workers = vars(huey).get("otel_workers", set())
    workers.discard(call.instance)
    if not workers:
        recorder.close(huey)
    if parent_process() is not None:  # a child of multiprocessing runs no exit handlers
        recorder.flush(metrics=True)


def stop(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """End what ends with this process: threads are not waited for, unless the stop is graceful."""
    yield
    consumer, huey = call.instance, call.instance.huey
    # `Consumer.run` signals next that they are interrupted (`Huey.notify_interrupted_tasks`).
    for run in tuple(vars(huey).get("otel_running", ())):
        run.interrupt()
    vars(huey).get("otel_workers", set()).clear()
    recorder.close(huey)
    if consumer._restart or parent_process() is not None:  # noqa: SLF001 - by `os.execl`
        recorder.flush(metrics=True)


def _places(huey: Any) -> list[Reading]:
    workers = len(huey.otel_workers)
    return [Reading(workers, busy=min(workers, len(vars(huey).get("otel_running", ()))))]
