"""The worker: its gauges while it runs, and its last export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Call, Reading, Recorder
from otel_queue_bridge.adapters.dramatiq.queues import readings

if TYPE_CHECKING:
    from collections.abc import Generator


def start(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    yield
    recorder.watch_workers(_threads, call.instance)
    recorder.watch_depth(lambda worker: readings(worker, recorder), call.instance)


def stop(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    yield
    recorder.close(call.instance)
    # A process of `dramatiq` runs no atexit handlers at its end, like all multiprocessing children.
    recorder.flush(metrics=True)


def _threads(worker: Any) -> list[Reading]:
    busy = sum("otel_busy" in vars(thread) for thread in worker.workers)
    return [Reading(len(worker.workers), busy=busy)]
