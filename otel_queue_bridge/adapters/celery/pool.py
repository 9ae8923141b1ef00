"""The worker's pool: the relay for its children, and its gauges."""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Call, Reading, Recorder
from otel_queue_bridge.adapters.celery.queues import readings

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from types import ModuleType

_consumers: weakref.WeakSet[Any] = weakref.WeakSet()
"""Those of workers that were started while we were on: we may be switched off and on again."""


def open_pool(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Count for the pool's children, which this call forks, and watch the worker."""
    pool = call.instance
    _relay(pool, recorder)
    yield
    _watch(pool, recorder)


def note_consumer(call: Call, recorder: Recorder) -> None:
    """Let the pool, whose gauges these are, find the consumer, which holds tasks for their ETA."""
    consumer = call.instance
    consumer.pool.otel_consumer = weakref.ref(consumer)
    _consumers.add(consumer)
    opened_by = getattr(consumer.pool, "otel_opened_by", None)
    if opened_by is None or opened_by() is not recorder:  # the pool is older than this recorder
        _relay(consumer.pool, recorder)
        _watch(consumer.pool, recorder)


def renew_strategies(_: ModuleType) -> Iterable[tuple[object, str]]:
    """Have workers that run hand over to the pool as it is patched now.

    A strategy keeps the pool's `apply_async` as it was. Celery makes all of them anew whenever it
    connects to the broker.
    """
    for consumer in tuple(_consumers):
        consumer.update_strategies()
    return ()


def _relay(pool: Any, recorder: Recorder) -> None:
    pool.otel_opened_by = weakref.ref(recorder)
    if pool.uses_semaphore:  # only prefork does
        recorder.relay(pool)


def _watch(pool: Any, recorder: Recorder) -> None:
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
