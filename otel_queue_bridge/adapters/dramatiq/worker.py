"""The worker: its gauges while it runs, and its last export."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Call, Reading, Recorder
from otel_queue_bridge.adapters.dramatiq.brokers import depths

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


def start(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    yield
    reference = weakref.ref(call.instance)
    call.instance.otel_closing = [
        recorder.watch_workers(lambda: _threads(reference())),
        recorder.watch_depth(lambda: _depths(reference())),
    ]


def stop(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    yield
    for close in vars(call.instance).pop("otel_closing", ()):
        close()
    # A process of `dramatiq` ends without atexit handlers, like every child of multiprocessing.
    recorder.flush(metrics=True)


def _threads(worker: Any) -> list[Reading]:
    return [] if worker is None else [Reading(len(worker.workers))]


def _depths(worker: Any) -> Iterable[Reading]:
    if worker is None:
        return ()
    names = [name for name in tuple(worker.consumers) if not name.endswith(".DQ")]
    return depths(worker.broker, names)
