"""ARQ's pools and burst workers in this process, where a test can see all of their state."""

import asyncio
import functools
import json
import pickle
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from arq import ArqRedis, Retry, Worker, func
from arq.worker import Function
from opentelemetry import trace
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.metrics import _internal
from redis.asyncio import ConnectionPool

from otel_queue_bridge import bridge, instrument, uninstrument
from otel_queue_bridge.adapters.arq import carrier, dispatch, queues
from otel_queue_bridge.adapters.arq import worker as adapter_worker
from tests.collected import Recorded

COMMANDS = (
    *("+client", "+dbsize", "+hello", "+info", "+select"),
    *("+exec", "+multi", "+unwatch", "+watch"),
    *("+del", "+exists", "+expire", "+get", "+incrby", "+psetex", "+set"),
    *("+zadd", "+zcard", "+zrangebyscore", "+zrem", "+zscore"),
)
"""Those of ARQ's, for Redis's access control."""
CHAIN = ["submit ok", "dispatch ok", "execute ok"]
Job = dict[str, Any]


class Telemetry(Recorded):
    def instrument(self, **options: Any) -> None:
        instrument("arq", **self.options, **options)

    def names(self) -> list[str]:
        return [span.name for span in self.spans()]

    def status(self, name: str) -> list[Any]:
        found = [span for span in self.spans() if span.name == name]
        return [span.attributes and span.attributes.get("task.status") for span in found]

    def traces(self) -> int:
        return len({span.context.trace_id for span in self.spans()})

    def counts(self) -> Counter[str]:
        counts: Counter[str] = Counter()
        for name in ("task.submitted", "task.dispatched", "task.retried"):
            counts[name] += sum(self.totals(name).values())
        for (status,), value in self.totals("task.completed", "task.status").items():
            counts[status] += value
        return +counts


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    uninstrument()


@pytest.fixture
def instrumented(telemetry: Telemetry) -> Telemetry:
    telemetry.instrument()
    return telemetry


class Shop:
    """One Redis, with what a test enqueues there and runs."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.ran: list[tuple[Any, ...]] = []

    async def ok(self, _: Job, *args: object, **kwargs: object) -> None:
        self.ran.append((args, kwargs))

    def run(
        self,
        *enqueue: Callable[[ArqRedis], Awaitable[object]],
        body: Callable[..., Any] | None = None,
        kind: type[Worker] = Worker,
        pool_kind: type[ArqRedis] = ArqRedis,
        dumps: Any = None,
        loads: Any = None,
        **options: Any,
    ) -> Worker:
        """Enqueue with a pool, then run all there is in a burst worker."""

        async def main() -> Worker:
            pool = pool_kind(
                ConnectionPool.from_url(self.url), job_serializer=dumps, job_deserializer=loads
            )
            given = {"functions": [func(body or self.ok, name="ok")], "poll_delay": 0.01, **options}
            try:
                for one in enqueue:
                    await one(pool)
                worker = kind(
                    **given,
                    redis_pool=pool,
                    burst=True,
                    handle_signals=False,
                    job_serializer=dumps,
                    job_deserializer=loads,
                )
                await worker.async_run()
            finally:
                await pool.aclose(close_connection_pool=True)
            return worker

        return asyncio.run(main())


@pytest.fixture
def shop(redis_url: str) -> Shop:
    return Shop(redis_url)


async def one(pool: ArqRedis) -> object:
    return await pool.enqueue_job("ok")


# The carrier


def to_json(job: Job) -> bytes:
    return json.dumps(job).encode()


def strict(job: Job) -> bytes:
    if job.keys() != {"t", "f", "a", "k", "et"}:
        raise TypeError("what is this?")
    return json.dumps(job).encode()


def load_strictly(raw: bytes) -> Job:
    job: Job = json.loads(raw)
    if job.keys() != {"t", "f", "a", "k", "et"}:
        raise TypeError("what is this?")
    return job


@dataclass
class Unhashable:
    """A serializer that no cache takes."""

    times: int = 0

    def __call__(self, job: Job) -> bytes:
        self.times += 1
        return to_json(job)


def listed(job: Job) -> bytes:
    return json.dumps([job[key] for key in ("t", "f", "a", "k", "et")]).encode()


class Listed:
    """What a deserializer may return that makes no dictionary."""

    def __init__(self, raw: bytes) -> None:
        self.found = dict(zip(("t", "f", "a", "k", "et"), json.loads(raw), strict=True))

    def __getitem__(self, key: str) -> Any:
        return self.found[key]


@pytest.mark.parametrize(
    ("dumps", "loads", "traces"),
    [
        (None, None, 1),
        (to_json, json.loads, 1),
        (strict, json.loads, 2),
        (to_json, load_strictly, 2),
        (Unhashable(), json.loads, 1),
        (listed, Listed, 2),
    ],
    ids=["pickle", "JSON", "fixed keys", "fixed keys at a worker", "unhashable", "no dictionary"],
)
def test_a_carrier_under_any_serializer_that_takes_it(
    instrumented: Telemetry, shop: Shop, dumps: Any, loads: Any, traces: int
) -> None:
    shop.run(one, dumps=dumps, loads=loads)
    assert shop.ran == [((), {})]
    assert instrumented.names() == CHAIN
    assert instrumented.traces() == traces
    assert instrumented.counts() == {"task.submitted": 1, "task.dispatched": 1, "success": 1}


def test_a_serializer_that_fails_fails_as_without_us(instrumented: Telemetry, shop: Shop) -> None:
    def refuse(_: Job) -> bytes:
        raise ValueError("not this")

    with pytest.raises(Exception, match='unable to serialize job "ok"') as raised:
        shop.run(one, dumps=refuse)
    assert isinstance(raised.value.__cause__, ValueError)
    assert raised.value.__cause__.__context__ is None
    assert instrumented.counts() == {}


@pytest.mark.parametrize("junk", [None, 7, "junk", [], {"traceparent": 7}, {7: object}, {"": {}}])
def test_a_job_with_junk_for_a_carrier_runs(
    instrumented: Telemetry, shop: Shop, junk: object
) -> None:
    shop.run(one, dumps=lambda job: pickle.dumps({**job, "otel": junk}))
    assert shop.ran == [((), {})]
    assert instrumented.status("execute ok") == ["success"]
    assert instrumented.traces() == 2


def test_a_retry_sends_no_junk_on(instrumented: Telemetry, shop: Shop) -> None:
    async def body(ctx: Job) -> None:
        if ctx["job_try"] == 1:
            raise Retry

    junk = {"otel-schedule": object, "traceparent": [object], "other": {7: 7}}
    shop.run(one, body=body, dumps=lambda job: pickle.dumps({**job, "otel": junk}))
    assert instrumented.status("execute ok") == ["retry", "success"]
    again = instrumented.spans()[
        2:
    ]  # from the dispatch on: the first submit's carrier was replaced
    assert len({span.context.trace_id for span in again}) == 1


@pytest.mark.parametrize("junk", [b"junk", b"[]", b"7", b'{"traceparent": 7}'])
def test_junk_in_the_place_of_a_retrys_carrier_does_no_harm(
    instrumented: Telemetry, shop: Shop, junk: Any
) -> None:
    async def enqueue(pool: ArqRedis) -> None:
        await pool.set("arq:retry:id:otel", junk)
        await pool.enqueue_job("ok", _job_id="id")

    shop.run(enqueue)
    assert shop.ran == [((), {})]
    assert instrumented.names() == CHAIN
    assert instrumented.traces() == 1


def test_what_a_retry_has_left_is_not_taken_for_that_of_a_later_job(
    instrumented: Telemetry, shop: Shop
) -> None:
    async def enqueue(pool: ArqRedis) -> None:
        await pool.set("arq:retry:id:otel", json.dumps({"otel-enqueued": 1, "traceparent": "x"}))
        await pool.enqueue_job("ok", _job_id="id")

    shop.run(enqueue)
    assert instrumented.traces() == 1


def test_nothing_of_ours_is_left_in_redis(instrumented: Telemetry, shop: Shop) -> None:
    async def body(ctx: Job) -> None:
        if ctx["job_try"] < 3:
            raise Retry
        assert await ctx["redis"].exists(f"arq:retry:{ctx['job_id']}:otel")

    async def look(pool: ArqRedis) -> None:
        assert await pool.keys("*otel*") == []

    shop.run(one, body=body)
    shop.run(look)
    assert instrumented.status("execute ok") == ["retry", "retry", "success"]
    assert instrumented.traces() == 1


def test_a_task_gets_no_argument_of_ours(instrumented: Telemetry, shop: Shop) -> None:
    shop.run(lambda pool: pool.enqueue_job("ok", 1, _defer_by=0.01, key=2))
    assert shop.ran == [((1,), {"key": 2})]


# Pools, workers and functions of the user's


def test_subclasses_are_one_submit_and_one_run(instrumented: Telemetry, shop: Shop) -> None:
    class Pool(ArqRedis):
        async def enqueue_job(self, function: str, *args: Any, **kwargs: Any) -> Any:
            return await super().enqueue_job(function, *args, **kwargs)

    class Own(Worker):
        async def run_job(self, job_id: str, score: int) -> None:
            await super().run_job(job_id, score)

        async def finish_job(self, *args: Any, **kwargs: Any) -> None:
            await super().finish_job(*args, **kwargs)

    shop.run(one, kind=Own, pool_kind=Pool)
    assert instrumented.names() == CHAIN
    assert instrumented.counts() == {"task.submitted": 1, "task.dispatched": 1, "success": 1}


async def look(pool: ArqRedis) -> list[Any]:
    async with pool.pipeline() as pipeline:
        pipeline.get("paused")
        return await pipeline.execute()


class Looking(Worker):
    """It uses pipelines before ARQ uses its own."""

    async def run_job(self, job_id: str, score: int) -> None:
        assert await look(self.pool) == [None]
        await super().run_job(job_id, score)

    async def finish_job(self, *args: Any, **kwargs: Any) -> None:
        assert await look(self.pool) == [None]
        await super().finish_job(*args, **kwargs)

    async def finish_failed_job(self, *args: Any, **kwargs: Any) -> None:
        assert await look(self.pool) == [None]
        await super().finish_failed_job(*args, **kwargs)


@pytest.mark.parametrize("max_tries", [1, 5])
def test_pipelines_of_the_users_own_are_left_alone(
    instrumented: Telemetry, shop: Shop, max_tries: int
) -> None:
    async def body(ctx: Job) -> None:
        if ctx["job_try"] == 1:
            raise Retry

    worker = shop.run(one, kind=Looking, body=body, max_tries=max_tries)
    assert (worker.jobs_retried, worker.jobs_complete) == (1, int(max_tries > 1))
    assert instrumented.traces() == 1
    dispatches = [span for span in instrumented.spans() if span.name == "dispatch ok"]
    assert [(span.attributes or {}).get("task.attempt") for span in dispatches] == [1, 2]


def test_what_we_add_to_a_transaction_is_taken_off_whatever_fails(
    instrumented: Telemetry, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("ours")

    monkeypatch.setattr(dispatch, "fetch", lambda job_id, _: carrier.fetch(job_id, fail))
    worker = shop.run(one)
    assert (worker.jobs_complete, shop.ran) == (1, [((), {})])


def test_a_user_of_redis_with_rights_to_what_arq_does_alone(
    instrumented: Telemetry, shop: Shop
) -> None:
    async def restrict(pool: ArqRedis) -> None:
        await pool.execute_command("ACL", "SETUSER", "arq", "on", ">secret", "~arq:*", *COMMANDS)

    async def unrestrict(pool: ArqRedis) -> None:
        await pool.execute_command("ACL", "DELUSER", "arq")

    async def body(ctx: Job) -> None:
        if ctx["job_try"] == 1:
            raise Retry

    shop.run(restrict)
    restricted = Shop(shop.url.replace("//", "//arq:secret@"))
    try:
        worker = restricted.run(one, body=body)
    finally:
        shop.run(unrestrict)
    assert (worker.jobs_retried, worker.jobs_complete) == (1, 1)
    assert instrumented.traces() == 1


def test_functions_of_all_kinds(instrumented: Telemetry, shop: Shop) -> None:
    async def plain(_: Job, argument: str) -> None:
        shop.ran.append((argument,))

    partial = functools.partial(plain, argument="partial")
    own = Function("own", plain, None, None, None, None)
    functions = [func(partial, name="partial"), own, shop.ok, func(plain, name="named")]

    async def enqueue(pool: ArqRedis) -> None:
        await pool.enqueue_job("partial")
        for name in ("own", "named", "Shop.ok"):
            await pool.enqueue_job(name, name)

    shop.run(enqueue, functions=functions)
    assert len(shop.ran) == 4
    executed = {name for name in instrumented.names() if name.startswith("execute")}
    assert executed == {f"execute {name}" for name in ("partial", "own", "named", "Shop.ok")}


def test_one_function_in_two_workers_is_advised_once(instrumented: Telemetry, shop: Shop) -> None:
    function = func(shop.ok, name="ok")
    for _ in range(2):
        shop.run(one, functions=[function])
    assert instrumented.names() == [*CHAIN, *CHAIN]
    uninstrument()
    assert function.coroutine == shop.ok
    assert function == func(shop.ok, name="ok")


def test_an_undo_while_a_job_runs_harms_nothing(instrumented: Telemetry, shop: Shop) -> None:
    async def body(_: Job) -> None:
        uninstrument()

    worker = shop.run(one, one, body=body)
    assert (worker.jobs_complete, worker.jobs_failed) == (2, 0)
    assert worker.functions["ok"].coroutine is body


@pytest.mark.parametrize("hook", ["on_job_start", "on_job_end"])
def test_a_hook_that_fails_ends_the_worker_as_without_us(
    instrumented: Telemetry, shop: Shop, hook: str
) -> None:
    async def fail(_: Job) -> None:
        raise ValueError("not today")

    with pytest.raises(ValueError, match="not today"):
        shop.run(one, **{hook: fail})
    ended = "dispatch ok" if hook == "on_job_start" else "execute ok"
    assert instrumented.status(ended) == ["retry"]  # ARQ has not finished it
    assert instrumented.counts() == {"task.submitted": 1, "task.dispatched": 1, "task.retried": 1}


@pytest.mark.parametrize("name", ["ok", "unknown"])
def test_an_attempt_that_cannot_be_finished_is_a_retry(
    instrumented: Telemetry, shop: Shop, name: str
) -> None:
    class Disconnected(Worker):
        async def finish_job(self, *_: Any, **__: Any) -> None:
            raise ConnectionError("gone")

        finish_failed_job = finish_job

    async def enqueue(pool: ArqRedis) -> None:
        await pool.enqueue_job(name)

    async def give_up(pool: ArqRedis) -> None:
        await pool.delete(*await pool.keys("arq:in-progress:*"))

    with pytest.raises(ConnectionError):
        shop.run(enqueue, kind=Disconnected)
    shop.run(give_up)
    counts = instrumented.counts()
    ended = "success" if name == "ok" else "rejected"
    expected = {"task.submitted": 1, "task.dispatched": 2, "task.retried": 1, ended: 1}
    assert counts == expected


@pytest.mark.parametrize(("retry_jobs", "status"), [(True, "cancelled"), (False, "failure")])
def test_an_abort_before_the_first_step(
    instrumented: Telemetry, shop: Shop, *, retry_jobs: bool, status: str
) -> None:
    class Aborting(Worker):
        async def run_job(self, job_id: str, score: int) -> None:
            self.on_job_start = self.abort_next
            await super().run_job(job_id, score)

        async def abort_next(self, ctx: Job) -> None:
            def make(loop: Any, coroutine: Any, **options: Any) -> Any:
                loop.set_task_factory(None)
                task = asyncio.Task(coroutine, loop=loop, **options)  # the body's
                task.cancel()
                # Else Python warns: it is not awaited, and ours that holds it does not begin.
                coroutine.cr_frame.f_locals["pending"].close()
                if retry_jobs:
                    self.aborting_tasks.add(ctx["job_id"])
                return task

            self.loop.set_task_factory(make)

    shop.run(one, kind=Aborting, retry_jobs=retry_jobs)
    assert shop.ran == []
    assert instrumented.status("dispatch ok") == [status]


@pytest.mark.parametrize("options", [{}, {"keep_result": 0}], ids=["kept", "no result"])
def test_where_a_retry_is_not_allowed_it_is_a_failure(
    instrumented: Telemetry, shop: Shop, options: dict[str, Any]
) -> None:
    async def body(_: Job) -> None:
        raise Retry

    shop.run(one, body=body, retry_jobs=False, **options)
    assert instrumented.status("execute ok") == ["failure"]
    assert instrumented.counts()["failure"] == 1


def test_arguments_that_are_listed(telemetry: Telemetry, shop: Shop) -> None:
    telemetry.instrument(capture_arguments={"ok": ["shown", "named"]})

    async def body(_: Job, shown: str, hidden: str, named: str) -> None:
        pass

    shop.run(lambda pool: pool.enqueue_job("ok", "seen", "s3cr3t", named="too"), body=body)
    submit, _, execute = (span.attributes or {} for span in telemetry.spans())
    assert submit["task.argument.named"] == execute["task.argument.named"] == "too"
    assert execute["task.argument.shown"] == "seen"
    assert "task.argument.shown" not in submit, "a caller has no names for these"
    assert "s3cr3t" not in str([span.attributes for span in telemetry.spans()])


def test_a_body_keeps_its_context_apart(instrumented: Telemetry, shop: Shop) -> None:
    async def body(_: Job) -> None:
        shop.ran.append((trace.get_current_span().get_span_context().span_id,))

    shop.run(one, one, body=body)
    executes = [span.context.span_id for span in instrumented.spans() if "execute" in span.name]
    assert sorted(found for (found,) in shop.ran) == sorted(executes)
    assert trace.get_current_span() is trace.INVALID_SPAN


# Gauges


def test_what_runs_is_no_depth(redis_url: str) -> None:
    async def read() -> Any:
        pool = ArqRedis(ConnectionPool.from_url(redis_url))
        await pool.zadd("arq:queue", {"runs": 1000, "next": 2000, "later": 9e15})
        await pool.set("arq:in-progress:runs", 1)
        worker = SimpleNamespace(pool=pool, queue_name="arq:queue")
        try:
            return await asyncio.to_thread(lambda: [*queues.readings(worker)])
        finally:
            await pool.aclose(close_connection_pool=True)

    (reading,) = asyncio.run(read())
    assert (reading.value, reading.delayed, reading.dead) == (1, 1, None)
    assert reading.oldest > 1e9


def test_an_aborted_job_that_waits_has_no_age() -> None:
    assert queues._age(b"1") is None  # noqa: SLF001
    assert queues._age(None) is None  # noqa: SLF001


@pytest.mark.parametrize("late", [False, True], ids=["before", "on_startup"])
def test_gauges_wherever_the_sdk_is_set_up(
    telemetry: Telemetry, shop: Shop, monkeypatch: pytest.MonkeyPatch, *, late: bool
) -> None:
    read: list[Any] = []

    async def start(_: Job) -> None:
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", telemetry.tracers)
        monkeypatch.setattr(_internal, "_METER_PROVIDER", telemetry.provider)

    async def body(_: Job) -> None:
        names = ("task.workers.active", "task.workers.busy", "task.queue.depth")
        read.append(await asyncio.to_thread(lambda: [telemetry.totals(name) for name in names]))

    if late:
        instrument("arq")
    else:
        telemetry.instrument()
    worker = shop.run(one, one, body=body, max_jobs=1, on_startup=start if late else None)
    assert worker.jobs_complete == 2
    assert [[*total.values()] for total in read[0]] == [[1], [1], [1]]


@pytest.mark.filterwarnings("ignore:Call to deprecated close")  # by ARQ
def test_nothing_is_flushed_in_the_event_loop_of_a_child_of_multiprocessing(
    instrumented: Telemetry, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Embedded(Worker):
        async def async_run(self) -> None:
            await super().async_run()
            await self.close()

    flushed: list[object] = []
    monkeypatch.setattr(adapter_worker, "parent_process", lambda: True)
    monkeypatch.setattr(bridge.lifecycle, "flush", lambda *_: flushed.append(True))
    shop.run(one, kind=Embedded)
    assert flushed == []
    assert instrumented.totals("task.workers.active") == {}


# The third-party instrumentor

RIVAL = "opentelemetry.instrumentation.arq"


class ArqInstrumentor(BaseInstrumentor):
    """Stands in for that of opentelemetry-instrumentation-arq, which no wrapt of today allows."""

    calls: list[str]

    def instrumentation_dependencies(self) -> list[str]:
        return []

    def _instrument(self, **_: Any) -> None:
        self.calls = []
        Function.coroutine = Traced(self.calls)

    def _uninstrument(self, **_: Any) -> None:
        """Do what its `unwrap` comes to: nothing."""


class Traced:
    """Like a descriptor of wrapt 1, which has a factory for what is to be called instead."""

    def __init__(self, calls: list[str]) -> None:
        def factory(coroutine: Any) -> Any:
            async def traced(ctx: Job, *args: Any) -> Any:
                calls.append("execute")
                return await coroutine(ctx, *args)

            return traced

        factory.__module__ = RIVAL
        self.factory = factory

    def __get__(self, instance: Any, owner: type) -> Any:
        return self.factory(vars(instance)["coroutine"])

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)["coroutine"] = value


@contextmanager
def rival() -> Iterator[ArqInstrumentor]:
    module = ModuleType(RIVAL)
    module.ArqInstrumentor = ArqInstrumentor  # type: ignore[attr-defined]
    sys.modules[RIVAL] = module
    instrumentor = ArqInstrumentor()
    instrumentor.instrument()
    try:
        yield instrumentor
    finally:
        instrumentor.uninstrument()
        if "coroutine" in vars(Function):
            del Function.coroutine
        del sys.modules[RIVAL]


def test_a_rival_is_replaced_with_all_that_it_leaves_behind(
    telemetry: Telemetry, shop: Shop
) -> None:
    with rival() as other:
        telemetry.instrument()
        shop.run(one)
        assert other.calls == []
    assert telemetry.names() == CHAIN


def test_we_yield_to_a_rival_where_the_user_wants_it(telemetry: Telemetry, shop: Shop) -> None:
    with rival() as other:
        telemetry.instrument(conflicts="yield")
        shop.run(one)
        assert other.calls == ["execute"]
    assert telemetry.names() == []
