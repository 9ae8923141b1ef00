"""The worker's pool: the relay for its children, and its gauges."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Call, Reading, Recorder
from otel_queue_bridge.adapters.celery.queues import readings

if TYPE_CHECKING:
    from collections.abc import Generator


def open_pool(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Count for the pool's children, which this call forks, and watch the worker."""
    pool = call.instance
    if pool.uses_semaphore:  # only prefork does
        recorder.relay(pool)
    yield
    recorder.watch_workers(_slots, pool)
    recorder.watch_depth(lambda pool: readings(pool, recorder), pool)


def close_pool(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    yield
    recorder.close(call.instance)


def _slots(pool: Any) -> list[Reading]:
    try:
        slots = pool.num_processes
    except AttributeError:  # a prefork pool that has stopped raises it (`TaskPool.on_stop`)
        slots = 0
    return [Reading(slots, busy=_busy(pool) if slots else 0)]


def _busy(pool: Any) -> int | None:
    """Count the places that run a task; None if a pool of the user's does not show it."""
    if not pool.uses_semaphore:
        return len(sys.modules["celery.worker.state"].active_requests)
    # Of prefork, the children that live and have begun one: Celery's own set lacks batches, and a
    # pool without an event loop keeps the task of a killed child in it for ten seconds.
    try:
        children = pool._pool  # noqa: SLF001
        jobs = tuple(children._cache.values())  # noqa: SLF001
        begun = {pid for job in jobs if not job.ready() for pid in job.worker_pids()}
        return len(begun & {child.pid for child in tuple(children._pool)})  # noqa: SLF001
    except AttributeError:
        return None
