"""Read how many jobs wait, and for what.

A job stays in its queue while it runs, so those that a worker has claimed have to be looked up.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_MOST = 1000
"""So many jobs, those that are served next or run already, are looked up."""
_ABORTED = 1
"""The score of a job that was aborted while it waited for its time (`Job.abort`)."""


def readings(worker: Any) -> Iterable[Reading]:
    if worker.pool is None:  # as long as the worker is about to connect
        return ()
    pool = worker.pool.connection_pool
    if "Sentinel" in pool.connection_class.__name__:
        return ()  # it asks where the server is over connections of the worker's event loop
    # In a thread of the reader's, so in an event loop of that thread's: the worker's may be busy.
    return (asyncio.run(_read(pool, worker.queue_name)),)


async def _read(pool: Any, queue: str) -> Reading:
    connection = pool.connection_class(**pool.connection_kwargs)
    await connection.connect()
    try:
        now = int(time.time() * 1000)
        ready, all_jobs, job_ids = await _ask(
            connection,
            ("ZCOUNT", queue, "-inf", now),
            ("ZCARD", queue),
            ("ZRANGEBYSCORE", queue, "-inf", now, "LIMIT", 0, _MOST),
        )
        waiting = []
        if job_ids:
            keys = [b"arq:in-progress:" + job_id for job_id in job_ids]
            (claims,) = await _ask(connection, ("MGET", *keys))
            waiting = [one for one, claim in zip(job_ids, claims, strict=True) if claim is None]
        oldest: float | None = 0.0
        if waiting:
            (score,) = await _ask(connection, ("ZSCORE", queue, waiting[0]))
            oldest = _age(score)
    finally:
        await connection.disconnect()
    running = len(job_ids) - len(waiting)
    return Reading(ready - running, queue, delayed=all_jobs - ready, oldest=oldest)


def _age(score: Any) -> float | None:
    if score is None or float(score) <= _ABORTED:
        return None
    return max(0.0, time.time() - float(score) / 1000)


async def _ask(connection: Any, *commands: Sequence[Any]) -> list[Any]:
    await connection.send_packed_command(connection.pack_commands(commands))
    return [await connection.read_response() for _ in commands]
