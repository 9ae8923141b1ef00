"""The contract's tasks on ARQ."""

import asyncio
import inspect
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from typing import Any

from arq import ArqRedis, Retry, Worker, cron, func
from arq.connections import RedisSettings
from arq.constants import abort_jobs_ss
from redis.asyncio import ConnectionPool

from otel_queue_bridge.testing import tasks

QUEUE = "contract"
SCHEDULE = "every night"
job_id: ContextVar[str] = ContextVar("job_id")


def submit(name: str, *args: str, **asked: Any) -> str:
    return asyncio.run(_submit(name, *args, **asked))


async def _submit(
    name: str,
    *args: str,
    delay: float = 0,
    cancelled: bool = False,
    schedule: str = "",
    **kwargs: str,
) -> str:
    pool = ArqRedis(ConnectionPool.from_url(tasks.BROKER), default_queue_name=QUEUE)
    try:
        if schedule:
            return await _tick(pool, schedule)
        later = 3600 if cancelled else delay
        job = await pool.enqueue_job(name, *args, _defer_by=later or None, **kwargs)
        if cancelled:  # as `Job.abort` does, but no worker can be faster
            await pool.zadd(abort_jobs_ss, {job.job_id: 1})
            await pool.zadd(QUEUE, {job.job_id: 1})
        return job.job_id
    finally:
        await pool.close(close_connection_pool=True)


async def _tick(pool: ArqRedis, schedule: str) -> str:
    now = datetime.now(tz=timezone.utc)
    planned = cron(functions["ok"].coroutine, name=schedule, job_id=uuid.uuid4().hex)
    planned.next_run = now - timedelta(seconds=1)
    worker = Worker(cron_jobs=[planned], queue_name=QUEUE, redis_pool=pool, handle_signals=False)
    await worker.run_cron(now, 0.5)
    return planned.job_id


def in_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a task run in a thread: it would hold up the event loop."""

    async def task(ctx: dict[str, Any], *args: str, **kwargs: str) -> Any:
        job_id.set(ctx["job_id"])
        try:
            return await asyncio.to_thread(function, *args, **kwargs)
        except tasks.BoomError as error:
            if function.__name__ in tasks.RETRIED:
                raise Retry from error
            raise

    given = inspect.signature(function)
    ctx = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_ONLY)
    task.__signature__ = given.replace(parameters=[ctx, *given.parameters.values()])
    return task


functions = {
    one.__name__: func(in_thread(one), name=one.__name__)
    for one in tasks.functions(current=job_id.get, submit=submit)
}


class WorkerSettings:
    functions = (*functions.values(), func(functions["ok"].coroutine, name=SCHEDULE))
    redis_settings = RedisSettings.from_dsn(tasks.BROKER or "redis://")
    queue_name = QUEUE
    max_jobs = 2
    poll_delay = 0.05
    allow_abort_jobs = True
    job_completion_wait = 10
