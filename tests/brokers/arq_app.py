"""A user's ARQ app with a function for each way that a job can go; also enqueues them.

Each case has a function, so that its spans and counts stay apart from those of the others.
"""

import asyncio
import multiprocessing
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from arq import ArqRedis, Retry, create_pool, cron, func, run_worker
from arq.connections import RedisSettings
from arq.constants import abort_jobs_ss
from arq.jobs import Job
from opentelemetry import trace

from tests.brokers.shop import SECRET

SETTINGS = RedisSettings.from_dsn(os.environ.get("APP_BROKER", "redis://"))
MANY = 40
tracer = trace.get_tracer("user")
Context = dict[str, Any]


async def returns(_: Context, argument: str) -> str:
    with tracer.start_as_current_span("inner"):
        await asyncio.sleep(0)
    return argument


async def fails(_: Context) -> None:
    raise ValueError("it failed")


async def retries(ctx: Context) -> None:
    if ctx["job_try"] == 1:
        raise Retry(defer=0.5)


async def exhausts(_: Context) -> None:
    raise Retry


async def sleeps(_: Context) -> None:
    await asyncio.sleep(60)


async def holds(ctx: Context) -> None:
    await ctx["redis"].set("holds", 1)
    await asyncio.sleep(60)


async def unprintable(_: Context) -> object:
    class Unprintable:
        def __repr__(self) -> str:
            raise ValueError("it failed")

    return Unprintable()


async def mixed(ctx: Context, number: int) -> None:
    with tracer.start_as_current_span(f"first {ctx['job_id']}"):
        await asyncio.sleep(0.001 * (number % 7))
    await ctx["redis"].enqueue_job("follows", _job_id=f"{ctx['job_id']} follows")
    await asyncio.sleep(0.001 * (number % 5))
    with tracer.start_as_current_span(f"last {ctx['job_id']}"):
        await asyncio.sleep(0)


async def nothing(_: Context) -> None:
    pass


async def waits(ctx: Context) -> None:
    await ctx["redis"].set("waits", 1)
    while not Path(os.environ["APP_GATE"]).exists():  # noqa: ASYNC110, ASYNC240 - another process
        await asyncio.sleep(0.02)


class Clerk:
    async def serve(self, _: Context) -> None:
        pass


async def note_start(_: Context) -> None:
    with tracer.start_as_current_span("on_job_start"):
        pass


async def note_end(_: Context) -> None:
    with tracer.start_as_current_span("on_job_end"):
        pass


async def note_after(_: Context) -> None:
    with tracer.start_as_current_span("after_job_end"):
        pass


class WorkerSettings:
    functions = (
        returns,
        fails,
        retries,
        func(exhausts, max_tries=2),
        func(sleeps, name="times out", timeout=0.2),
        func(sleeps, name="times out, and keeps no result", timeout=0.2, keep_result=0),
        func(holds, name="aborted"),
        func(nothing, name="aborted before"),
        unprintable,
        mixed,
        func(nothing, name="follows"),
        func(nothing, name="expires"),
        func(nothing, name="misfits"),
        func(nothing, name="deferred"),
        func(nothing, name="twice"),
        func(nothing, name="third"),
        func(Clerk().serve, name="method"),
        func("tests.brokers.arq_app.nothing", name="by its path"),
        waits,
    )
    cron_jobs = (cron(nothing, name="every second", second=set(range(60))),)
    redis_settings = SETTINGS
    max_jobs = 50
    poll_delay = 0.05
    allow_abort_jobs = True
    on_job_start = note_start
    on_job_end = note_end
    after_job_end = note_after


async def enqueue(*names: str) -> None:
    pool = await create_pool(SETTINGS)
    for name in names:
        await pool.enqueue_job(name)
    await pool.aclose(close_connection_pool=True)


async def enqueue_all() -> None:
    """Enqueue all cases, and wait until they are done with."""
    pool = await create_pool(SETTINGS)
    with tracer.start_as_current_span("caller"):
        for name in ("fails", "retries", "exhausts", "unknown", "unprintable", "method"):
            await pool.enqueue_job(name)
        for name in ("times out", "times out, and keeps no result", "by its path"):
            await pool.enqueue_job(name)
        await pool.enqueue_job("returns", SECRET)
        await pool.enqueue_job("misfits", SECRET, SECRET)
        await pool.enqueue_job("expires", _job_id="expires", _expires=0.2, _defer_by=0.5)
        await pool.enqueue_job("deferred", _defer_by=timedelta(seconds=1))
        await pool.enqueue_job("third", _job_try=3)
        assert await pool.enqueue_job("twice", _job_id="twice")
        assert await pool.enqueue_job("twice", _job_id="twice") is None
        for number in range(MANY):
            await pool.enqueue_job("mixed", number, _job_id=f"mixed {number}")
        await abort_before(pool)
        job = await pool.enqueue_job("aborted")
    while not await pool.exists("holds"):  # noqa: ASYNC110 - another process
        await asyncio.sleep(0.02)
    assert await job.abort(timeout=30, poll_delay=0.05)
    while await pool.zcard("arq:queue") > 1:  # noqa: ASYNC110 - a tick may wait for its time
        await asyncio.sleep(0.02)
    await pool.aclose(close_connection_pool=True)


async def abort_before(pool: ArqRedis) -> Job:
    """Do as `Job.abort` does; but no worker can be faster."""
    job = await pool.enqueue_job("aborted before", _defer_by=3600)
    await pool.zadd(abort_jobs_ss, {job.job_id: 1})
    await pool.zadd("arq:queue", {job.job_id: 1})
    return job


def run_in_child() -> None:
    """Run a burst worker as supervisors of the user's do; such a child runs no exit handlers."""
    child = multiprocessing.get_context("fork").Process(
        target=run_worker, args=(WorkerSettings,), kwargs={"burst": True, "cron_jobs": ()}
    )
    child.start()
    child.join()


if __name__ == "__main__":
    if sys.argv[1:] == ["child"]:
        run_in_child()
    else:
        asyncio.run(enqueue(*sys.argv[1:]) if sys.argv[1:] else enqueue_all())
