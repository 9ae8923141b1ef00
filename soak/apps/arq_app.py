from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

from arq import ArqRedis, Retry, func
from arq.connections import RedisSettings
from redis.asyncio import ConnectionPool

from soak import tasks

if TYPE_CHECKING:
    from collections.abc import Callable


def submit(name: str, key: str, **options: Any) -> str:
    async def enqueue() -> str:
        pool = ArqRedis(ConnectionPool.from_url(tasks.BROKER), **options)
        try:
            job = await pool.enqueue_job(name, key)
            assert job
            return job.job_id
        finally:
            await pool.close(close_connection_pool=True)

    return asyncio.run(enqueue())


def submit_hostile(name: str, key: str, junk: Any) -> str:
    return submit(name, key, job_serializer=lambda job: pickle.dumps({**job, "otel": junk}))


def in_thread(function: Callable[[str], Any]) -> Callable[..., Any]:
    """Have a task run in a thread: it would hold up the event loop."""

    async def task(ctx: dict[str, Any], key: str) -> Any:
        try:
            return await asyncio.to_thread(function, key)
        except tasks.BoomError as error:
            if function.__name__ in tasks.RETRIED and ctx["job_try"] == 1:
                raise Retry from error
            raise

    return task


class WorkerSettings:
    functions = tuple(func(in_thread(f), name=f.__name__) for f in tasks.functions(submit))
    redis_settings = RedisSettings.from_dsn(tasks.BROKER)
    max_jobs = 2
    poll_delay = 0.05
    job_completion_wait = 10
