"""Read how many tasks wait, and for how long the next one has.

A connection of the host's is not used for that, nor a storage that we do not know.
"""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Reading, ask_redis
from otel_queue_bridge.adapters.huey.carrier import stored
from otel_queue_bridge.adapters.huey.reading import kinds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_queue_bridge.adapter import Recorder

    Read = tuple[int, int, "list[Any] | None"]
    """How many wait, how many are delayed, and what is served next: one, none, or unknown."""

_TIME_STAMP = 8
"""Bytes of it before each message of a queue with priorities."""


def readings(huey: Any, recorder: Recorder) -> Iterator[Reading]:
    known = kinds(huey.storage.__class__)
    reads = {"RedisStorage": _redis, "BaseSqlStorage": _sql, "FileStorage": _plain}
    read = next((read for kind, read in reads.items() if kind in known), None)
    if read is _redis and not hasattr(huey.storage, "pool"):  # a client that is not redis-py's
        return
    if getattr(huey.storage, "connection", None) is not None:  # PostgreSQL, by a user's function
        return
    if read is not None:
        ready, delayed, next_ones = read(huey.storage)
        oldest = None if next_ones is None else 0.0
        for data in next_ones or ():
            oldest = recorder.age(stored(data, huey.serializer))
        yield Reading(ready, huey.name, delayed=delayed, oldest=oldest)


def _redis(storage: Any) -> Read:
    queue = storage.queue_key
    size, head, prefix = ("LLEN", queue), ("LRANGE", queue, -1, -1), 0
    if "RedisPriorityQueue" in kinds(storage.__class__):
        size, head, prefix = ("ZCARD", queue), ("ZRANGE", queue, 0, 0), _TIME_STAMP
    ready, delayed, first = ask_redis(storage.conn, [size, ("ZCARD", storage.schedule_key), head])
    return ready, delayed, [data[prefix:] for data in first]


def _sql(storage: Any) -> Read:
    own = copy.copy(storage)  # with a connection that no other thread has; 2.6 has one per thread
    own._conn, own.lock = None, threading.Lock()  # noqa: SLF001 - there is nothing public
    try:
        return own.queue_size(), own.schedule_size(), own.enqueued_items(1)
    finally:
        own.close()


def _plain(storage: Any) -> Read:
    # To open the first file may fail, as a worker renames it; it takes a lock to do better.
    return storage.queue_size(), storage.schedule_size(), None
