"""Celery's children come and go: nothing is lost, counted twice or delayed by telemetry."""

import json
import os
import signal
import sys
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_queue_bridge.otlp import Receiver
from tests.brokers.forks import ROOT, SCOPE, Forking, instances
from tests.servers import LIMIT, Processes, free_port

RECYCLED = ("-P", "prefork", "-c", "6", "--max-tasks-per-child", "1")
PREFORK = ("-P", "prefork", "-c", "2")


@pytest.fixture
def shop(
    request: pytest.FixtureRequest, receiver: Receiver, processes: Processes, tmp_path: Path
) -> Forking:
    return Forking(request.getfixturevalue(request.param), receiver, processes, tmp_path)


@pytest.fixture
def redis_shop(redis_url: str, receiver: Receiver, processes: Processes, tmp_path: Path) -> Forking:
    return Forking(redis_url, receiver, processes, tmp_path)


each_way = pytest.mark.parametrize(
    ("shop", "arguments"),
    [
        pytest.param("redis_url", RECYCLED, id="recycled-redis"),
        pytest.param("amqp_url", PREFORK, id="prefork-amqp"),
    ],
    indirect=["shop"],
)


def assert_exact(shop: Forking, name: str = "ok", *, finished: bool = True) -> None:
    """Assert that the spans and the counters agree with the tasks' own notes.

    A stopped worker gives each task back to the broker that it does not know to have begun. A child
    may still run such a task, and another worker will run it, too.
    """
    ran = sorted(shop.ran(name))
    assert sorted(shop.executed(name)) == ran
    counts = shop.counts()
    dispatches = [span for span in shop.receiver.spans() if span.name == f"dispatch {name}"]
    assert counts["task.dispatched", name] == len(dispatches)
    number = completed(shop, name)
    assert number + counts["task.retried", name] == len(dispatches)
    assert counts["task.duration", name, "success"] == number
    assert counts["task.wait", name] == number
    if finished:
        assert number == len(dispatches) == len(ran)
    else:
        assert number <= len(ran)


def completed(shop: Forking, name: str = "ok") -> int:
    return shop.counts()["task.completed", name, "success"]


def assert_clean(receiver: Receiver) -> None:
    """Assert that no span came twice, no request was garbled, and no child exported metrics."""
    assert receiver.rejected == []
    spans = Counter(span.span_id for span in receiver.spans())
    assert [span_id for span_id, times in spans.items() if times > 1] == []
    assert children(receiver) == set()


def children(receiver: Receiver) -> set[str]:
    """Return the processes, apart from the worker's main one, that exported points of ours."""
    exported = [point for point in receiver.points() if point.service == "worker"]
    main = instances(exported, lambda point: point.metric == "task.workers.active")
    assert len(main) == 1
    return instances(exported, lambda _: True) - main


@pytest.mark.parametrize(
    ("shop", "arguments", "number"),
    [
        # Billiard needs a second to replace a child, which limits the number of tasks.
        pytest.param("redis_url", RECYCLED, 24, id="recycled-redis"),
        pytest.param("amqp_url", RECYCLED, 24, id="recycled-amqp"),
        pytest.param("redis_url", ("-P", "prefork", "--autoscale", "6,1"), 60, id="autoscaled"),
    ],
    indirect=["shop"],
)
def test_as_many_spans_and_counts_as_tasks(
    shop: Forking, arguments: tuple[str, ...], number: int
) -> None:
    worker = shop.worker(*arguments)
    shop.submit("ok", number)
    worker.wait_for(lambda: completed(shop) == number)
    assert worker.stop(signal.SIGTERM) == 0
    assert_exact(shop)
    assert shop.counts()["task.submitted", "ok"] == number
    assert_clean(shop.receiver)


def test_a_pool_that_grew_and_shrank_has_lost_nothing(redis_shop: Forking) -> None:
    """Children that autoscale ends, long before the worker ends, have exported their spans."""
    shop = redis_shop
    worker = shop.worker(
        *("-P", "prefork", "--autoscale", "4,1"),
        AUTOSCALE_KEEPALIVE="1",
        OTEL_BSP_SCHEDULE_DELAY="60000",  # nothing is exported without a flush
    )
    shop.submit("gate", 4)
    worker.wait_for(lambda: len(shop.ran("gate")) == 4)
    shop.open_gate()

    def alone() -> bool:
        return len(worker.members()) == 2

    worker.wait_for(alone)
    flushed = len(shop.executed("gate"))
    assert worker.stop(signal.SIGTERM) == 0
    assert flushed >= 3
    assert_exact(shop, "gate")
    assert_clean(shop.receiver)


@each_way
def test_what_ran_is_told_by_a_worker_stopped_behind_the_last_publish(
    shop: Forking, arguments: tuple[str, ...]
) -> None:
    worker = shop.worker(*arguments, OTEL_BSP_SCHEDULE_DELAY="60000")
    shop.submit("ok", 40)
    assert worker.stop(signal.SIGTERM) == 0
    assert_exact(shop, finished=False)
    assert_clean(shop.receiver)
    worker = shop.worker(*PREFORK)
    worker.wait_for(lambda: completed(shop) == 40)
    assert worker.stop(signal.SIGTERM) == 0
    assert_exact(shop, finished=False)
    assert shop.counts()["task.submitted", "ok"] == 40


@pytest.mark.parametrize("shop", ["redis_url", "amqp_url"], indirect=True)
def test_what_a_stopped_worker_had_no_child_for_is_run_by_another(shop: Forking) -> None:
    """A task is handed to the pool when its child is about to end and has no successor yet."""

    def dispatched() -> int:
        return shop.counts()["task.dispatched", "ok"]

    submitted = 0
    while dispatched() == completed(shop) and submitted < 60:  # until a worker is slower than we
        worker = shop.worker(
            *("-P", "prefork", "-c", "1", "--max-tasks-per-child", "1"),
            OTEL_METRIC_EXPORT_INTERVAL="50",
        )
        shop.submit("ok", 2)
        submitted += 2
        worker.wait_for(lambda: dispatched() == submitted)  # noqa: B023 - called at once
        assert worker.stop(signal.SIGTERM) == 0
    assert shop.counts()["task.retried", "ok"] == 1
    assert_exact(shop, finished=False)
    worker = shop.worker(*PREFORK)
    worker.wait_for(lambda: completed(shop) == submitted)
    assert worker.stop(signal.SIGTERM) == 0
    assert_exact(shop, finished=False)
    assert shop.counts()["task.retried", "ok"] == 1
    assert shop.counts()["task.submitted", "ok"] == submitted


@each_way
def test_what_a_child_submits_is_counted_once(shop: Forking, arguments: tuple[str, ...]) -> None:
    worker = shop.worker(*arguments)
    shop.submit("submits", 3, args=[4])
    worker.wait_for(lambda: (completed(shop), completed(shop, "submits")) == (12, 3))
    assert worker.stop(signal.SIGTERM) == 0
    counts = shop.counts()
    assert counts["task.submitted", "submits"] == 3
    assert counts["task.submitted", "ok"] == 12
    assert counts["task.dispatched", "ok"] == counts["task.completed", "ok", "success"] == 12
    assert counts["task.completed", "submits", "success"] == 3
    submits = [span for span in shop.receiver.spans() if span.name == "submit ok"]
    assert len(submits) == 12
    assert_clean(shop.receiver)


def test_a_worker_that_is_switched_off_and_on_again_tells_all(redis_shop: Forking) -> None:
    """Its children live on, and one of them is killed: its successor is counted once, too."""
    shop = redis_shop
    worker = shop.worker(*PREFORK)
    shop.submit("ok", 3)
    worker.wait_for(lambda: completed(shop) == 3)
    os.kill(worker.pid, signal.SIGUSR2)
    worker.wait_for(lambda: shop.ran("switched"))
    shop.submit("submits", args=[4])
    worker.wait_for(lambda: completed(shop) == 7)
    shop.submit("gate")
    worker.wait_for(lambda: shop.ran("gate"))
    ((*_, pid),) = [line for line in shop.notes() if line[0] == "gate"]
    os.kill(pid, signal.SIGKILL)
    worker.wait_for(lambda: shop.counts()["task.completed", "gate", "failure"] == 1)
    shop.submit("submits", 4, args=[4])
    worker.wait_for(lambda: completed(shop) == 23)
    workers = [p.value for p in shop.receiver.latest() if p.metric == "task.workers.active"]
    assert worker.stop(signal.SIGTERM) == 0
    assert workers == [2]
    assert sorted(shop.executed("gate")) == shop.ran("gate")
    assert_exact(shop)
    assert_exact(shop, "submits")
    assert shop.counts()["task.submitted", "ok"] == 23


def test_it_is_counted_if_the_worker_ends_at_once(redis_shop: Forking) -> None:
    """When the last record is in the pipe, the child is gone and its parent has to stop."""
    shop = redis_shop
    worker = shop.worker("-P", "prefork", "-c", "1", "--max-tasks-per-child", "1")
    shop.submit("submits", args=[5])
    worker.wait_for(lambda: shop.ran("submits"))
    assert worker.stop(signal.SIGTERM) == 0
    assert shop.counts()["task.submitted", "ok"] == 5
    assert_exact(shop, "submits", finished=False)
    assert_exact(shop, finished=False)
    assert_clean(shop.receiver)


def test_a_child_exports_nothing_of_its_parents(redis_shop: Forking) -> None:
    """The children are forked after the parent has counted, and live for many export intervals."""
    shop = redis_shop
    worker = shop.worker(*RECYCLED, OTEL_METRIC_EXPORT_INTERVAL="50")
    shop.submit("ok", 8)
    worker.wait_for(lambda: completed(shop) == 8)
    first = {pid for *_, pid in shop.notes()}
    shop.submit("gate", 4)
    worker.wait_for(lambda: len(shop.ran("gate")) == 4)
    assert not first & {pid for kind, *_, pid in shop.notes() if kind == "gate"}

    # The children hold their tasks. While the main process exports this often, so could they.
    def exports() -> int:
        return sum(point.metric == "task.workers.active" for point in shop.receiver.points())

    seen = exports()
    worker.wait_for(lambda: exports() > seen + 20)
    assert children(shop.receiver) == set()
    shop.open_gate()
    worker.wait_for(lambda: len(shop.ran("passed")) == 4)
    assert worker.stop(signal.SIGTERM) == 0
    assert_clean(shop.receiver)


def test_nothing_is_lost_when_a_long_lived_child_records_beside_its_parent(
    redis_shop: Forking,
) -> None:
    """Parent and children export all the time, but no two of them on one connection."""
    shop = redis_shop
    worker = shop.worker(
        *("-P", "prefork", "-c", "3", "--max-tasks-per-child", "10"),
        OTEL_BSP_SCHEDULE_DELAY="10",
        OTEL_METRIC_EXPORT_INTERVAL="50",
    )
    shop.submit("ok", 150)
    worker.wait_for(lambda: completed(shop) == 150)
    assert worker.stop(signal.SIGTERM) == 0
    assert_exact(shop)
    assert_clean(shop.receiver)


# For a collector that does not answer, or does not exist. In the main process alone, the SDK's own
# shutdown waits for its exporters' timeouts as well, so these are short. They are still longer
# than any flush_timeout here, which limits the children.
IMPATIENT = {
    "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
    "OTEL_METRIC_EXPORT_TIMEOUT": "3000",
    "OTEL_BSP_EXPORT_TIMEOUT": "3000",
}


@pytest.fixture
def hanging() -> Iterator[Receiver]:
    with Receiver(hang=True) as receiver:
        yield receiver


@pytest.mark.parametrize(
    ("arguments", "number", "flushes", "flush_timeout"),
    [
        pytest.param(("-P", "prefork", "-c", "2"), 200, 2, 1.0, id="prefork"),
        pytest.param(RECYCLED, 12, 6, 0.2, id="recycled"),
    ],
)
def test_a_hanging_collector_loses_no_task_and_keeps_no_worker(
    redis_url: str,
    hanging: Receiver,
    processes: Processes,
    tmp_path: Path,
    arguments: tuple[str, ...],
    number: int,
    flushes: int,
    flush_timeout: float,
) -> None:
    shop = Forking(redis_url, hanging, processes, tmp_path)
    worker = shop.worker(
        *arguments,
        OTEL_PYTHON_QUEUE_BRIDGE_FLUSH_TIMEOUT=str(flush_timeout),
        **IMPATIENT,
    )
    shop.send({"name": "ok", "count": number})
    worker.wait_for(lambda: len(shop.ran()) == number)
    assert worker.stop(signal.SIGTERM, timeout=flushes * flush_timeout + LIMIT) == 0
    assert sorted(shop.ran()) == sorted(set(shop.ran()))


def test_an_absent_collector_loses_no_task_and_keeps_no_worker(redis_shop: Forking) -> None:
    shop = redis_shop
    worker = shop.worker(
        *PREFORK, **IMPATIENT, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}"
    )
    shop.send({"name": "ok", "count": 200})
    worker.wait_for(lambda: len(shop.ran()) == 200)
    assert worker.stop(signal.SIGTERM) == 0
    assert len(set(shop.ran())) == 200


@pytest.mark.parametrize(
    ("conflicts", "scope"),
    [("replace", SCOPE), ("yield", "opentelemetry.instrumentation.celery")],
)
def test_with_contribs_instrumentor_there_is_one_set_of_spans(
    redis_shop: Forking, conflicts: str, scope: str
) -> None:
    shop = redis_shop
    both = {
        # If `logging` is on, it swallows what is logged before Celery sets up logging.
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "fastapi,logging,redis",
        "OTEL_PYTHON_QUEUE_BRIDGE_CONFLICTS": conflicts,
    }
    worker = shop.worker(*PREFORK, **both)
    shop.submit_all([{"name": "ok", "count": 3}], **both)
    shop.receiver.wait_for(lambda spans: len(spans) >= (9 if scope == SCOPE else 6), LIMIT)
    assert worker.stop(signal.SIGTERM) == 0
    spans = shop.receiver.spans()
    assert {span.scope for span in spans if "celery" in span.scope or "queue" in span.scope} == {
        scope
    }
    assert len(spans) == (9 if scope == SCOPE else 6)
    assert len({span.trace_id for span in spans}) == 3
    told = [line for line in worker.log().splitlines() if "conflicts=yield" in line]
    assert len(told) == 1, told
    assert "CeleryInstrumentor" in told[0]
    assert_no_metric_twice(shop, conflicts)


def assert_no_metric_twice(shop: Forking, conflicts: str) -> None:
    scopes = {point.scope for point in shop.receiver.points() if "celery" in point.scope}
    counts = shop.counts()
    if conflicts == "replace":
        assert scopes == set()
        assert counts["task.completed", "ok", "success"] == 3
    else:
        assert counts == Counter()


def test_two_deliveries_of_one_task_at_once(redis_shop: Forking) -> None:
    shop = redis_shop
    worker = shop.worker("-P", "threads", "-c", "2")
    task_id = str(uuid.uuid4())
    twice = {"name": "gate", "task_id": task_id}
    shop.submit_all(
        [{**twice, "args": ["first", 1]}, {**twice, "args": ["second", 2]}],
    )
    worker.wait_for(lambda: shop.ran("gate") == [task_id, task_id])
    shop.open_gate("second")
    worker.wait_for(lambda: len(shop.ran("passed")) == 1)
    shop.open_gate("first")
    worker.wait_for(lambda: len(shop.ran("passed")) == 2)
    assert worker.stop(signal.SIGTERM) == 0
    spans = {span.span_id: span for span in shop.receiver.spans()}
    executes = [span for span in spans.values() if span.name == "execute gate"]
    assert len(executes) == 2
    assert {span.attributes["messaging.message.id"] for span in executes} == {task_id}
    assert {span.attributes["task.status"] for span in executes} == {"success"}
    dispatches = {span.parent_id for span in executes}
    assert {spans[dispatch].name for dispatch in dispatches} == {"dispatch gate"}
    submits = {spans[dispatch].parent_id for dispatch in dispatches}
    assert {spans[submit].name for submit in submits} == {"submit gate"}
    assert len(dispatches) == len(submits) == 2
    assert len({span.trace_id for span in executes}) == 2
    assert shop.counts()["task.completed", "gate", "success"] == 2
    assert shop.counts()["task.dispatched", "gate"] == 2
    assert_clean(shop.receiver)


FLAT = """
import gc, json, sys
from collections import Counter
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
import otel_queue_bridge

trace.set_tracer_provider(TracerProvider())
metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
otel_queue_bridge.instrument("celery")

from celery import Celery
from celery.concurrency.solo import TaskPool
from celery.worker.request import Request

app = Celery("app", broker="memory://")
app.conf.task_ignore_result = True
ran = 0

@app.task(name="ok", bind=True)
def ok(self):
    global ran
    ran += 1
    if self.request.retries == 0 and ran % 30 == 0:
        raise self.retry(countdown=0)
    if ran % 50 == 0:
        raise ValueError

app.finalize()
pool = TaskPool(app=app)
pool.start()
channel = app.connection_for_read().channel()

def run_one():
    message = channel.basic_get("celery", no_ack=True)
    if message is None:
        ok.delay()
        message = channel.basic_get("celery", no_ack=True)
    Request(
        message, app=app, hostname="w", task=ok, connection_errors=(), eventer=None,
        on_ack=lambda *_: None, on_reject=lambda *_: None,
    ).execute_using_pool(pool)

def look():
    gc.collect()
    kinds = (type(thing) for thing in gc.get_objects())
    ours = Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in kinds
        if str(kind.__module__).startswith("otel_queue_bridge")
    )
    return ours, sys.getallocatedblocks()

TASKS = int(sys.argv[1])
while ran < TASKS // 4:
    run_one()
early, early_blocks = look()
while ran < TASKS:
    run_one()
late, late_blocks = look()
print(json.dumps([early - late, late - early, late_blocks - early_blocks]))
pool.stop()
"""


def test_memory_is_flat(processes: Processes, tmp_path: Path) -> None:
    """After all tasks there are no more objects than after a quarter of them.

    The tasks pass through a worker's real request and pool. Its loop is left out: it only waits.
    """
    tasks = 12_000
    options = ["-W", "ignore", "-X", "utf8"]
    run = processes.start(
        "flat",
        [sys.executable, *options, "-c", QUIET + FLAT, str(tasks)],
        env={"PYTHONPATH": str(ROOT)},
    )
    assert run.wait(4 * LIMIT) == 0, run.log()
    fewer, more, blocks = json.loads(run.log().splitlines()[-1])
    assert more == fewer == {}
    assert blocks < tasks / 12, "a leak would take at least one block per task"


QUIET = "import logging; logging.getLogger('celery').disabled = True\n"
"""Celery logs every failed task."""


EMBEDDED = """
import otel_queue_bridge
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
otel_queue_bridge.instrument("celery")
import celery.contrib.testing.worker  # by this door, parts of the worker import each other
import celery.worker.consumer.consumer as consumer, celery.app.trace as trace
assert consumer.build_tracer is trace.build_tracer
print("imported")
"""


def test_modules_that_import_each_other_are_no_reason_to_warn(processes: Processes) -> None:
    run = processes.start(
        "embedded", [sys.executable, "-c", EMBEDDED], env={"PYTHONPATH": str(ROOT)}
    )
    assert run.wait() == 0, run.log()
    assert run.log() == "imported\n"
