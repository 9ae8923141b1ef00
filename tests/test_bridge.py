"""One queue, instrumented: what it opens it closes, by undo, by hand or with its owner."""

import contextlib
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from weakref import WeakKeyDictionary

import pytest
from opentelemetry import trace
from opentelemetry.context import attach, detach, get_value, set_value
from opentelemetry.instrumentation.utils import is_instrumentation_enabled, suppress_instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_queue_bridge import instruments
from otel_queue_bridge.adapter import SUCCESS, Adapter, Reading, Task
from otel_queue_bridge.bridge import Bridge
from otel_queue_bridge.config import load
from otel_queue_bridge.forks import lifecycle, relay
from tests.collected import Collected
from tests.forking import child, reap
from tests.servers import LIMIT, wait_until
from tests.test_instruments import Slow, record_in_a_thread

RELAY = "otel_queue_bridge.relay"
WORKERS, DEPTH, COUNT = "task.workers.active", "task.queue.depth", "task.dispatched"


class Pool:
    """A library's pool of workers."""

    def __init__(self, size=7):
        self.size = size

    def readings(self):
        return [Reading(self.size)]


class Sdk(Collected):
    def __init__(self):
        super().__init__()
        self.exporter = InMemorySpanExporter()
        self.spans = TracerProvider()
        self.spans.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.bridges = []

    def bridge(self, system="fake", *, queries=False, **options):
        providers = {"tracer_provider": self.spans, "meter_provider": self.provider}
        config = load({**providers, **options}, environment={})
        adapter = Adapter(system, (), (), queries_for_depth=queries)
        self.bridges.append(Bridge(adapter, config))
        assert self.bridges[-1].active()
        return self.bridges[-1]


@pytest.fixture
def sdk():
    sdk = Sdk()
    yield sdk
    for bridge in sdk.bridges:
        bridge.undo()
    sdk.provider.shutdown()
    sdk.spans.shutdown()


def test_polling_hides_others_and_not_us(sdk):
    bridge = sdk.bridge()
    with attached_value("user", 1), bridge.polling():
        assert not is_instrumentation_enabled()
        assert bridge.active()
        with bridge.submit(task()):
            assert not is_instrumentation_enabled()
            with bridge.not_polling() as was_polling:
                assert was_polling
                assert is_instrumentation_enabled()
                assert get_value("user") == 1
                assert trace.get_current_span().is_recording()
            assert not is_instrumentation_enabled()
    assert is_instrumentation_enabled()
    with bridge.not_polling() as was_polling:
        assert not was_polling
    (span,) = sdk.exporter.get_finished_spans()
    assert span.name == "submit mail"


def test_polling_leaves_a_users_suppression_alone(sdk):
    bridge = sdk.bridge()
    with suppress_instrumentation():
        assert not bridge.active()
        with bridge.not_polling():
            assert not is_instrumentation_enabled()


def test_polling_can_be_shown(sdk):
    with sdk.bridge(suppress_polling=False).polling():
        assert is_instrumentation_enabled()


@contextlib.contextmanager
def attached_value(key, value):
    token = attach(set_value(key, value))
    yield
    detach(token)


def task():
    return Task("mail", "low")


def descriptors():
    return {one.name for one in Path("/proc/self/fd").iterdir()}


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name == RELAY]


class Worker:
    """A worker with a pool, gauges, a relay and a child that stays until it is told to go."""

    def __init__(self, bridge, pool):
        self.relay = bridge.relay(of=pool)
        bridge.watch_workers(Pool.readings, of=pool)
        bridge.watch_depth(lambda: [Reading(3, queue="low")])
        stays, self._go = os.pipe()

        def work():
            os.close(self._go)
            bridge.dispatch(task()).end()
            os.read(stays, 1)

        self._child = child(work)
        os.close(stays)

    def end(self):
        os.close(self._go)
        reap(self._child)


# By undo


def test_undo_in_a_running_worker_closes_all_that_was_opened(sdk):
    before = descriptors()
    bridge, pool = sdk.bridge(), Pool()
    worker = Worker(bridge, pool)
    wait_until(lambda: sdk.totals(COUNT) == {(): 1})
    assert (sdk.totals(WORKERS), sdk.totals(DEPTH)) == ({(): 7}, {(): 3})
    assert reading_threads()
    bridge.undo()
    assert lifecycle.participants() == ()
    assert relay.opened() is None
    assert reading_threads() == []
    assert set(sdk.totals(WORKERS).values()) <= {0}
    assert sdk.totals(DEPTH) == {}
    worker.end()
    assert descriptors() == before


def test_afterwards_it_begins_clean_and_a_pool_of_7_reads_7(sdk):
    pool = Pool()
    for _ in range(3):
        bridge = sdk.bridge()
        worker = Worker(bridge, pool)
        assert sdk.totals(WORKERS) == {(): 7}
        assert sdk.totals(DEPTH) == {(): 3}
        bridge.undo()
        worker.end()
    assert sdk.totals(WORKERS) == {(): 0}


def test_what_a_running_hook_reports_after_the_undo_is_not_recorded(sdk):
    """It has not seen how the task ended."""
    bridge = sdk.bridge()
    task = Task("send", "mail", carrier={})
    bridge.undo()
    with bridge.execute(task, measured=True) as operation:
        operation.settle(SUCCESS)
    bridge.attempted(task, SUCCESS, started=0, duration=1)
    assert not sdk.exporter.get_finished_spans()
    assert not sdk.totals("task.completed")


def test_what_is_opened_after_the_undo_is_closed_at_once(sdk):
    """As by a worker that was just starting, in another thread."""
    bridge, pool = sdk.bridge(), Pool()
    bridge.undo()
    before = descriptors()
    bridge.watch_workers(Pool.readings, of=pool)
    bridge.watch_depth(lambda: [Reading(3, queue="low")])
    bridge.relay(of=pool)
    assert relay.opened() is None
    assert (sdk.totals(WORKERS), sdk.totals(DEPTH)) == ({}, {})
    assert descriptors() == before


@pytest.mark.parametrize(
    ("options", "read"),
    [({}, {}), ({"queue_depth": True}, {(): 3}), ({"queue_depth": False}, {})],
)
def test_a_depth_that_is_a_query_is_read_only_if_asked_for(sdk, options, read):
    bridge = sdk.bridge(queries=True, **options)
    bridge.watch_depth(lambda: [Reading(3, queue="low")])
    assert sdk.totals(DEPTH) == read


def test_a_process_that_has_counted_nothing_does_nothing_at_a_fork(sdk, monkeypatch):
    sdk.bridge().undo()
    monkeypatch.setattr(instruments, "_instruments", WeakKeyDictionary())  # of other tests

    def held(_):
        pytest.fail("looked at the SDK")

    monkeypatch.setattr(lifecycle, "Held", held)
    reap(child(lambda: None))


def test_of_two_queues_the_other_goes_on(sdk):
    one, other = sdk.bridge("one"), sdk.bridge("other")
    for bridge, size in ((one, 7), (other, 5)):
        bridge.watch_workers(lambda size=size: [Reading(size)])
    assert sdk.totals(WORKERS, "messaging.system") == {("one",): 7, ("other",): 5}
    one.undo()
    assert sdk.totals(WORKERS, "messaging.system") == {("one",): 0, ("other",): 5}
    assert lifecycle.participants() == (other,)


# With its owner, or by hand


@pytest.mark.parametrize("by", ["close", "collection"])
def test_what_belongs_to_a_pool_ends_with_it(sdk, by):
    gc.collect()  # else descriptors that earlier tests left open might close meanwhile
    before = descriptors()
    bridge, pool, other = sdk.bridge(), Pool(), Pool(2)
    worker = Worker(bridge, pool)
    bridge.watch_workers(Pool.readings, of=other)
    assert sdk.totals(WORKERS) == {(): 9}
    if by == "close":
        bridge.close(of=pool)
        bridge.close(of=pool)
    else:
        del pool
        gc.collect()
    assert sdk.totals(WORKERS) == {(): 2}
    assert sdk.totals(DEPTH) == {(): 3}, "it belongs to nobody"
    assert relay.opened() is None
    wait_until(lambda: reading_threads() == [])
    worker.end()
    assert descriptors() == before


def test_a_gauge_does_not_keep_its_owner(sdk):
    bridge, pool = sdk.bridge(), Pool()
    bridge.watch_workers(Pool.readings, of=pool)
    bridge.relay(of=pool)
    del pool
    assert [one for one in gc.get_objects() if type(one) is Pool] == []


def test_a_gauge_that_is_closed_by_hand_is_closed_once(sdk):
    bridge = sdk.bridge()
    end = bridge.watch_workers(lambda: [Reading(7)])
    assert sdk.totals(WORKERS) == {(): 7}
    end()
    end()
    bridge.undo()
    assert sdk.totals(WORKERS) == {(): 0}


def test_pools_that_are_started_and_dropped_leave_no_thread(sdk):
    """As Celery's own tests do, which look for lingering threads."""
    before, bridge = set(threading.enumerate()), sdk.bridge()
    pools = [Pool() for _ in range(3)]
    for pool in pools:
        bridge.relay(of=pool)
        bridge.watch_workers(Pool.readings, of=pool)
    assert set(threading.enumerate()) == before, "there is no child to hear"


# Counting


def test_the_first_task_waits_for_no_collection_of_others(sdk):
    """Dispatched and executed, while a callback of the user's does not return."""
    bridges = []

    def work():
        bridges.append(sdk.bridge())
        for _ in range(10):
            bridges[0].dispatch(task()).end()
            with bridges[0].execute(task(), measured=True) as operation:
                operation.settle(SUCCESS)

    with Slow(sdk) as slow:
        working = record_in_a_thread(work)
        assert not working.is_alive()
        assert not slow.released.is_set()
    wait_until(lambda: sdk.totals("task.completed") == sdk.totals("task.duration") == {(): 10})
    assert sdk.totals(COUNT) == {(): 10}


def test_the_caps_hold_for_what_children_report(sdk):
    bridge = sdk.bridge(max_task_names=2, max_queue_names=3)
    pool = Pool()
    bridge.relay(of=pool)

    def work():
        for at in range(5):
            bridge.submit(Task(f"task {at}", f"queue {at}")).end()

    for _ in range(2):
        reap(child(work))
    wait_until(lambda: sum(sdk.totals("task.submitted").values()) == 10)
    names = sdk.totals("task.submitted", "task.name")
    assert names == {("task 0",): 2, ("task 1",): 2, ("_other",): 6}
    queues = sdk.totals("task.submitted", "messaging.destination.name")
    assert queues["_other",] == 4
    assert len(queues) == 4


# At the end of the process

LEFT_RUNNING = """
import dramatiq
from dramatiq.brokers.stub import StubBroker
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
import otel_queue_bridge

class Exporter(MetricExporter):
    def export(self, data, timeout_millis=0, **_):
        self.exported = [
            metric.name
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis=0):
        return True

    def shutdown(self, timeout_millis=0, **_):
        print("exported", *self.exported)

otel_queue_bridge.instrument("dramatiq")
trace.set_tracer_provider(TracerProvider())
reader = PeriodicExportingMetricReader(Exporter(), export_interval_millis=3_600_000)
metrics.set_meter_provider(MeterProvider([reader]))
broker = StubBroker()
dramatiq.set_broker(broker)

@dramatiq.actor
def hello():
    print("hello", flush=True)

dramatiq.Worker(broker, worker_timeout=10, worker_threads=2).start()
hello.send()
broker.join(hello.queue_name)
print("end", flush=True)
"""


def test_a_worker_that_is_never_stopped_ends_without_a_traceback():
    """Its last collection comes while the interpreter shuts down, and starts no thread."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", LEFT_RUNNING],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    hello, end, exported = run.stdout.splitlines()
    assert (run.returncode, hello, end, run.stderr) == (0, "hello", "end", "")
    assert {"task.submitted", "task.completed", "task.duration"} <= set(exported.split())
