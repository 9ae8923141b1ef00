"""The worker: its gauges while it takes jobs, and its last export."""

from __future__ import annotations

import sys
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Call, Reading, Recorder
from otel_queue_bridge.adapters.arq.queues import readings

if TYPE_CHECKING:
    from collections.abc import Generator

RIVAL = "opentelemetry.instrumentation.arq:ArqInstrumentor"
_WATCHED = "_otel_queue_bridge_watched"
"""The attribute of a worker that holds who reads its gauges."""


def poll_iteration(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    # Here, and not in `Worker.main`: an SDK may be set up in the `on_startup` in between.
    worker = call.instance
    if vars(worker).get(_WATCHED) is not recorder:
        setattr(worker, _WATCHED, recorder)
        _free(worker)
        recorder.watch_workers(_places, worker)
        recorder.watch_depth(readings, worker)
    with recorder.polling():
        yield


def end(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Close the gauges: after `Worker.main`, or after `Worker.close` if no SDK was there before."""
    yield
    vars(call.instance).pop(_WATCHED, None)
    recorder.close(call.instance)


def run(_: Call, recorder: Recorder) -> Generator[None, None, None]:
    # Here, and not in `Worker.close`: where an app has the worker in its event loop, this would
    # hold that up.
    yield
    if parent_process() is not None:  # a child of multiprocessing runs no exit handlers
        recorder.flush(metrics=True)


def _places(worker: Any) -> list[Reading]:
    # ARQ 0.25 has no `max_jobs`.
    places = vars(worker).get("max_jobs") or worker.sem._bound_value  # noqa: SLF001
    return [Reading(places, busy=len(worker.job_tasks))]


def _free(worker: Any) -> None:
    """Remove what a rival leaves behind that we have replaced.

    Its `uninstrument` (0.50b1) does not find the descriptor that it has put on these classes.
    """
    module = RIVAL.partition(":")[0]
    for kind in {type(function) for function in worker.functions.values()}:
        left = vars(kind).get("coroutine")
        factory = getattr(left, "factory", None)
        if module in sys.modules and getattr(factory, "__module__", None) == module:
            del kind.coroutine
