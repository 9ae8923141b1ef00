"""The worker: its gauges while it runs, and its last export."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Call, Reading, Recorder
from otel_queue_bridge.adapters.dramatiq.brokers import depths

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


def start(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    yield
    recorder.watch_workers(_threads, call.instance)
    recorder.watch_depth(_depths, call.instance)


def stop(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    yield
    recorder.close(call.instance)
    # A process of `dramatiq` runs no atexit handlers at its end, like all multiprocessing children.
    recorder.flush(metrics=True)


def _threads(worker: Any) -> list[Reading]:
    return [Reading(len(worker.workers))]


def _depths(worker: Any) -> Iterable[Reading]:
    names = [name for name in tuple(worker.consumers) if not name.endswith(".DQ")]
    return depths(worker.broker, names)
