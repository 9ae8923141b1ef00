# ruff: noqa: SLF001 - what is kept shows in private tables only
"""The instruments: their names, when they count, and what a source that fails costs."""

import json
import logging
import threading

import pytest
from opentelemetry import metrics as api
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import NoOpMeterProvider

from otel_queue_bridge import semconv
from otel_queue_bridge.adapter import (
    CANCELLED,
    IGNORED,
    REJECTED,
    RETRY,
    SUCCESS,
    Adapter,
    Outcome,
    Reading,
    Task,
    failed,
)
from otel_queue_bridge.bridge import Bridge
from otel_queue_bridge.config import load
from otel_queue_bridge.metrics import Measurements
from tests.collected import Collected
from tests.servers import LIMIT

PATIENCE = int(LIMIT)
"""Seconds after which something hangs for good."""


class Bench(Collected):
    """The measurements of made-up queues on one SDK, and what its reader collects."""

    def __init__(self, **options):
        super().__init__(**options)
        self._bridges = []

    def measurements(self, system="fake", **options):
        return Measurements(system, self.config(**options))

    def bridge(self, **options):
        """Return a whole queue: here the outcomes become attributes."""
        self._bridges.append(Bridge(Adapter("fake", (), ()), self.config(**options)))
        assert self._bridges[-1].active() or not options.get("metrics", True)
        return self._bridges[-1]

    def config(self, **options):
        return load({"meter_provider": self.provider, **options}, environment={})

    def close(self):
        for bridge in self._bridges:
            bridge.undo()
        self.provider.shutdown()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.close()


def task(name="signup", queue="mail", **facts):
    return Task(name, queue, **facts)


def one_of_each(measurements):
    a_task = task(id="1234", priority=3, worker="worker@host", attempt=1, server=("host", 1))
    measurements.submitted(a_task, None, 0.001)
    measurements.dispatched(a_task, None)
    measurements.attempted(a_task, RETRY, None, 0.02, 0.3)
    measurements.attempted(a_task, SUCCESS, None, 0.02, 0.3)
    measurements.watch(semconv.WORKERS, lambda: [Reading(3, busy=1)])
    measurements.watch(
        semconv.DEPTH,
        lambda: [Reading(5, queue="mail", priority="high", delayed=4, dead=2, oldest=1.5)],
    )


TASK = {
    "task.submitted": "{task}",
    "task.dispatched": "{task}",
    "task.completed": "{task}",
    "task.retried": "{task}",
    "task.duration": "s",
    "task.wait": "s",
    "task.workers.active": "{worker}",
    "task.workers.busy": "{worker}",
    "task.queue.depth": "{task}",
    "task.queue.delayed": "{task}",
    "task.queue.dead": "{task}",
    "task.oldest": "s",
}
SYSTEM = {
    "fake.tasks.submitted": "{task}",
    "fake.tasks.dispatched": "{task}",
    "fake.tasks.completed": "{task}",
    "fake.tasks.retried": "{task}",
    "fake.tasks.duration": "s",
    "fake.tasks.wait": "s",
    "fake.workers.active": "{worker}",
    "fake.workers.busy": "{worker}",
    "fake.queue.depth": "{task}",
    "fake.queue.delayed": "{task}",
    "fake.queue.dead": "{task}",
    "fake.tasks.oldest": "s",
}
MESSAGING = {
    "messaging.client.sent.messages": "{message}",
    "messaging.client.consumed.messages": "{message}",
    "messaging.client.operation.duration": "s",
    "messaging.process.duration": "s",
}


@pytest.mark.parametrize(
    ("naming", "expected"), [("task", TASK), ("system", SYSTEM), ("messaging", MESSAGING)]
)
def test_names_and_units(bench, naming, expected):
    one_of_each(bench.measurements(naming=naming))
    assert {metric.name: metric.unit for metric in bench.metrics().values()} == expected


def test_each_has_a_description_and_the_schema(bench):
    one_of_each(bench.measurements())
    assert all(metric.description for metric in bench.metrics().values())
    assert {scope.schema_url for scope in bench.scopes()} == {semconv.SCHEMA_URL}


def test_what_adds_up_over_processes_is_a_sum(bench):
    one_of_each(bench.measurements())
    found = bench.metrics()
    for name in ("task.submitted", "task.dispatched", "task.completed", "task.retried"):
        assert found[name].data.is_monotonic, name
    assert not found["task.workers.active"].data.is_monotonic
    assert not hasattr(found["task.queue.depth"].data, "is_monotonic"), "each worker reads it all"


@pytest.mark.parametrize(
    ("naming", "status", "operations"),
    [
        ("task", "task.status", {}),
        ("system", "status", {}),
        (
            "messaging",
            "task.status",
            {
                "messaging.client.sent.messages": "submit",
                "messaging.client.operation.duration": "submit",
                "messaging.client.consumed.messages": "dispatch",
                "messaging.process.duration": "execute",
            },
        ),
    ],
)
def test_attributes_say_what_ran_where_and_never_which(bench, naming, status, operations):
    one_of_each(bench.measurements(naming=naming))
    gauges = {one.name(naming, "fake") for one in semconv.GAUGES}
    for name, metric in bench.metrics().items():
        if name in gauges:
            continue
        for point in metric.data.data_points:
            attributes = dict(point.attributes)
            assert attributes.pop("messaging.operation.name", None) == operations.get(name)
            assert attributes.pop(status, "") in {"", "success", "retry"}
            assert attributes == {
                "messaging.system": "fake",
                "messaging.destination.name": "mail",
                "task.name": "signup",
            }


def test_gauges_say_whose_and_of_what(bench):
    one_of_each(bench.measurements())
    (workers,) = bench.points("task.workers.active")
    assert (workers.value, dict(workers.attributes)) == (3, {"messaging.system": "fake"})
    (depth,) = bench.points("task.queue.depth")
    assert (depth.value, dict(depth.attributes)) == (
        5,
        {
            "messaging.system": "fake",
            "messaging.destination.name": "mail",
            "task.priority": "high",
        },
    )


@pytest.mark.parametrize(
    ("naming", "histograms"),
    [
        ("task", {"task.duration", "task.wait"}),
        ("system", {"fake.tasks.duration", "fake.tasks.wait"}),
        ("messaging", {"messaging.process.duration", "messaging.client.operation.duration"}),
    ],
)
def test_buckets_reach_from_milliseconds_to_an_hour(bench, naming, histograms):
    one_of_each(bench.measurements(naming=naming))
    found = bench.metrics()
    ages = {semconv.OLDEST.name(naming, "fake")}
    assert {name for name, metric in found.items() if metric.unit == "s"} - ages == histograms
    for name in histograms:
        (bounds,) = {point.explicit_bounds for point in found[name].data.data_points}
        assert bounds == (
            *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10),
            *(30, 60, 300, 600, 1800, 3600),
        )


def test_buckets_are_advice_that_a_view_overrides():
    from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View

    view = View(
        instrument_name="task.duration", aggregation=ExplicitBucketHistogramAggregation([1])
    )
    bench = Bench(views=[view])
    one_of_each(bench.measurements())
    assert {point.explicit_bounds for point in bench.points("task.duration")} == {(1,)}
    bench.close()


def counted_here(measurements, name, queue):
    measurements.dispatched(task(name, queue), None)


def counted_by_a_child(measurements, name, queue):
    """Have a child report it, as JSON."""
    child, sent = Measurements("fake", load({}, environment={})), []
    child.report_to(lambda system, *report: sent.append(json.loads(json.dumps(report))))
    child.dispatched(task(name, queue), None)
    for report in sent:
        measurements.record(*report)


@pytest.mark.parametrize("count", [counted_here, counted_by_a_child])
def test_names_beyond_the_limit_become_one_whoever_counts(bench, count):
    measurements = bench.measurements(max_task_names=2, max_queue_names=3)
    for _ in range(2):
        for number in range(5):
            count(measurements, f"task {number}", f"queue {number}")
    assert bench.totals("task.dispatched", "task.name") == {
        ("task 0",): 2,
        ("task 1",): 2,
        ("_other",): 6,
    }
    assert bench.totals("task.dispatched", "messaging.destination.name") == {
        ("queue 0",): 2,
        ("queue 1",): 2,
        ("queue 2",): 2,
        ("_other",): 4,
    }


def test_a_gauge_reads_no_more_queues_than_may_be_named(bench):
    measurements = bench.measurements(max_queue_names=2)
    measurements.dispatched(task(queue="mail"), None)
    measurements.watch(
        semconv.DEPTH, lambda: [Reading(1, queue=f"queue {number}") for number in range(4)]
    )
    for _ in range(2):
        totals = bench.totals("task.queue.depth", "messaging.destination.name")
        assert totals == {("queue 0",): 1, ("_other",): 3}


def test_endless_names_and_queues_cost_no_endless_memory(bench):
    measurements = bench.measurements(max_task_names=3)
    for number in range(5000):
        measurements.dispatched(task(f"task {number}", f"queue {number % 7}"), None)
    totals = bench.totals("task.dispatched", "task.name", "messaging.destination.name")
    assert sum(totals.values()) == 5000
    assert {name for name, _ in totals} == {"task 0", "task 1", "task 2", "_other"}
    assert measurements._cell.cache_info().currsize <= 2000


def test_a_failed_submit_is_none(bench):
    measurements = bench.measurements()
    measurements.submitted(task(), "OperationalError", 0.1, handed_over=False)
    measurements.dispatched(task(), None)
    assert "task.submitted" not in bench.metrics()


def test_the_duration_of_a_failed_submit_is_measured_where_there_is_a_name_for_it(bench):
    measurements = bench.measurements(naming="messaging")
    measurements.submitted(task(), "OperationalError", 0.1, handed_over=False)
    measurements.submitted(task(), None, 0.1)
    assert bench.totals("messaging.client.operation.duration", "error.type") == {
        ("OperationalError",): 1,
        (None,): 1,
    }
    assert bench.totals("messaging.client.sent.messages") == {(): 1}


def test_a_retrys_submit_is_none(bench):
    measurements = bench.measurements()
    for attempt in (None, 1, 2, 3):
        measurements.submitted(task(attempt=attempt), None, 0.1)
    assert bench.totals("task.submitted") == {(): 2}


def test_expected_failures_have_no_error_type(bench):
    bridge = bench.bridge()
    for outcome in (failed(ValueError("secret"), expected=True), failed(ValueError("secret"))):
        bridge.attempted(task(), outcome, started=100.0, duration=0.5)
    for metric in ("task.completed", "task.duration"):
        assert bench.totals(metric, "task.status", "error.type") == {
            ("failure", None): 1,
            ("failure", "ValueError"): 1,
        }


def test_an_error_of_which_only_the_name_arrived(bench):
    broken = Outcome("failure", error_type="user.Broken")
    bench.bridge().attempted(task(), broken, started=100.0, duration=0.5)
    assert bench.totals("task.completed", "error.type") == {("user.Broken",): 1}


@pytest.mark.parametrize(
    ("outcome", "submitted"),
    [
        (None, {(): 1}),
        (SUCCESS, {(): 1}),
        (Outcome("success", OSError("no reply")), {(): 1}),
        (Outcome("failure", OSError("down")), {}),
        (Outcome("failure", error_type="user.Broken"), {}),
    ],
)
def test_what_was_handed_over_is_submitted_whatever_came_after(bench, outcome, submitted):
    submit = bench.bridge().submit(task())
    if outcome is not None:
        submit.settle(outcome)
    submit.end()
    assert bench.totals("task.submitted") == submitted


@pytest.mark.parametrize("outcome", [None, RETRY, REJECTED])
@pytest.mark.parametrize("options", [{}, {"dispatch_spans": False}, {"excluded_tasks": "signup"}])
def test_a_dispatch_that_another_process_has_counted_is_not_counted(bench, options, outcome):
    dispatch = bench.bridge(**options).dispatch(task(), measured=False)
    if outcome is not None:
        dispatch.settle(outcome)
    dispatch.end()
    assert bench.metrics() == {}


def test_every_status_is_counted(bench):
    bridge = bench.bridge()
    for outcome in (SUCCESS, failed(ValueError()), RETRY, CANCELLED, REJECTED, IGNORED):
        bridge.attempted(task(), outcome, started=100.0, duration=0.5)
    ended = {("success",), ("failure",), ("cancelled",), ("rejected",), ("ignored",)}
    assert set(bench.totals("task.completed", "task.status")) == ended
    assert bench.totals("task.retried") == {(): 1}
    assert set(bench.totals("task.duration", "task.status")) == ended | {("retry",)}


@pytest.mark.parametrize(
    ("outcome", "completed", "retried"),
    [
        (None, {}, {}),
        (CANCELLED, {("cancelled",): 1}, {}),
        (RETRY, {}, {("signup",): 1}),
        (Outcome("retry", ValueError()), {}, {("signup",): 1}),
    ],
)
def test_an_attempt_that_ended_at_its_dispatch_is_counted_as_what_it_came_to(
    bench, outcome, completed, retried
):
    dispatch = bench.bridge().dispatch(task())
    if outcome is not None:
        dispatch.settle(outcome)
    dispatch.end()
    assert bench.totals("task.dispatched") == {(): 1}
    assert bench.totals("task.completed", "task.status") == completed
    assert bench.totals("task.retried", "task.name") == retried
    assert all("task.status" not in point.attributes for point in bench.points("task.retried"))


@pytest.mark.parametrize(
    ("planned", "eta", "wait"),
    [(None, None, 60), (None, 1020, 40), (None, 980, 60), (1030, 1020, 30), (1010, 1020, 40)],
)
def test_a_task_waits_from_when_it_could_have_started(bench, planned, eta, wait):
    carrier = {"otel-submitted": "1000"}
    if planned is not None:
        carrier["otel-planned"] = str(planned)
    bridge = bench.bridge()
    attempted = task(carrier=carrier, eta=eta)
    bridge.attempted(attempted, SUCCESS, started=1060, duration=0.1)
    (point,) = bench.points("task.wait")
    assert point.sum == pytest.approx(wait)


def test_over_a_finished_run_the_counts_agree(bench):
    """Three that succeed (one at the third attempt), one that fails, one expired unseen."""
    bridge = bench.bridge()

    def submit(attempt=1):
        carrier = {}
        with bridge.submit(task(attempt=attempt, carrier=carrier)):
            pass
        return carrier

    def run(carrier, outcome, attempt=1):
        attempted = task(attempt=attempt, carrier=carrier)
        bridge.dispatch(attempted).end()
        if outcome is RETRY:
            submit(attempt + 1)  # inside the attempt that asked for it
        bridge.attempted(attempted, outcome, started=0, duration=0.1)

    with pytest.raises(OSError, match="down"):
        fail(bridge)
    for outcomes in ([SUCCESS], [SUCCESS], [RETRY, RETRY, SUCCESS], [failed(KeyError("x"))]):
        carrier = submit()
        for attempt, outcome in enumerate(outcomes, 1):
            run(carrier, outcome, attempt)
    expired = bridge.dispatch(task(carrier=submit()))
    expired.settle(CANCELLED)
    expired.end()

    def total(metric):
        return sum(bench.totals(metric).values())

    assert total("task.submitted") == total("task.completed") == 5
    assert total("task.dispatched") == total("task.completed") + total("task.retried") == 7
    assert total("task.duration") == 6
    assert total("task.wait") <= 6


def fail(bridge):
    """Publish while the broker is down."""
    with bridge.submit(task(carrier={})) as operation:
        error = OSError("down")
        operation.settle(failed(error))
        raise error


def test_what_a_child_reported_is_counted_with_what_is_counted_here(bench):
    """It comes as JSON, where tuples are lists."""
    measurements, sent = bench.measurements(), []
    one_of_each(measurements)

    def send(_: str, *report: object) -> bool:
        sent.append(json.loads(json.dumps(report)))
        return True

    measurements.report_to(send)
    one_of_each(measurements)
    assert bench.totals("task.submitted") == {(): 1}
    measurements.report_to(None)
    for report in sent:
        measurements.record(*report)
    for metric in ("task.submitted", "task.dispatched", "task.completed", "task.retried"):
        assert [point.value for point in bench.points(metric)] == [2], metric
    for metric in ("task.duration", "task.wait"):
        assert bench.totals(metric) == {(): 4}
    bench.measurements(metrics=False).record(*sent[0])
    assert bench.totals("task.submitted") == {(): 2}


def test_two_libraries_share_one_instrument(bench):
    for system, number in (("one", 1), ("two", 2)):
        measurements = bench.measurements(system)
        for _ in range(number):
            one_of_each(measurements)
    for metric in ("task.submitted", "task.duration", "task.wait"):
        totals = bench.totals(metric, "messaging.system")
        assert totals[("two",)] == 2 * totals[("one",)], metric
    assert bench.totals("task.completed", "messaging.system") == {("one",): 1, ("two",): 2}


def test_gauges_gather_from_every_source(bench, caplog):
    one, two = bench.measurements("one"), bench.measurements("two")
    one.watch(semconv.WORKERS, lambda: [Reading(3)])
    end = two.watch(semconv.WORKERS, lambda: [Reading(4)])
    two.watch(semconv.DEPTH, lambda: [Reading(1, queue="a"), Reading(2, queue="b")])
    assert bench.totals("task.workers.active", "messaging.system") == {("one",): 3, ("two",): 4}
    assert bench.totals("task.queue.depth", "messaging.destination.name") == {
        ("a",): 1,
        ("b",): 2,
    }
    end()
    end()
    assert bench.totals("task.workers.active", "messaging.system") == {("one",): 3, ("two",): 0}
    assert caplog.records == []


def test_one_read_for_each_export_serves_all_gauges(bench):
    measurements, reads = bench.measurements(), []

    def read():
        reads.append(1)
        number = len(reads)
        return [Reading(number, queue="mail", delayed=number, dead=number, oldest=number / 2)]

    measurements.watch(semconv.DEPTH, read)
    for number in (1, 2, 3):
        metrics = bench.metrics()
        values = {name: metrics[name].data.data_points[0].value for name in metrics}
        states = dict.fromkeys(
            ("task.queue.depth", "task.queue.delayed", "task.queue.dead"), number
        )
        assert values == {**states, "task.oldest": number / 2}
    assert len(reads) == 3


def test_what_is_unknown_is_not_exported(bench):
    measurements = bench.measurements()
    measurements.watch(semconv.WORKERS, lambda: [Reading(3)])
    measurements.watch(
        semconv.DEPTH,
        lambda: [Reading(0, queue="a", oldest=0.0), Reading(None, queue="b", delayed=2)],
    )
    names = {name: len(bench.points(name)) for name in bench.metrics()}
    assert names == {
        "task.workers.active": 1,
        "task.queue.depth": 1,
        "task.queue.delayed": 1,
        "task.oldest": 1,
    }


def test_busy_workers_add_up_are_never_more_than_all_and_none_after_the_end(bench):
    one, two = bench.measurements(), bench.measurements()
    one.watch(semconv.WORKERS, lambda: [Reading(3, busy=2)])
    end = two.watch(semconv.WORKERS, lambda: [Reading(2, busy=5)])
    assert bench.totals("task.workers.active") == {(): 5}
    assert bench.totals("task.workers.busy") == {(): 4}
    end()
    assert bench.totals("task.workers.busy") == {(): 2}
    data = bench.metrics()["task.workers.busy"].data
    assert not data.is_monotonic


def test_the_age_of_several_queues_in_one_is_that_of_the_oldest(bench):
    measurements = bench.measurements(max_queue_names=1)
    ages = {"a": 1.0, "b": 7.0, "c": 3.0}
    measurements.watch(
        semconv.DEPTH, lambda: [Reading(1, queue=name, oldest=age) for name, age in ages.items()]
    )
    assert bench.totals("task.oldest", "messaging.destination.name") == {("a",): 1, ("_other",): 7}
    assert bench.totals("task.queue.depth", "messaging.destination.name")[("_other",)] == 2


def test_a_source_that_raises_gives_no_reading_and_one_warning(bench, caplog):
    measurements, works = bench.measurements(), threading.Event()

    def read():
        if not works.is_set():
            raise ConnectionRefusedError("secret@host")
        return [Reading(7, queue="mail")]

    measurements.watch(semconv.DEPTH, read)
    measurements.watch(semconv.DEPTH, lambda: [Reading(1, queue="other")])
    for _ in range(3):
        assert bench.totals("task.queue.depth", "messaging.destination.name") == {("other",): 1}
    (warning,) = caplog.records
    assert (warning.name, warning.levelno) == ("otel_queue_bridge", logging.WARNING)
    assert "fake" in warning.getMessage()
    assert "ConnectionRefusedError" in warning.getMessage()
    assert "secret" not in caplog.text
    works.set()
    assert bench.totals("task.queue.depth") == {(): 8}
    works.clear()
    assert bench.totals("task.queue.depth") == {(): 1}
    assert len(caplog.records) == 2, "it worked meanwhile"


def test_a_source_that_fails_halfway_gives_no_reading(bench, caplog):
    def read():
        yield Reading(7, queue="mail")
        raise ConnectionResetError

    bench.measurements().watch(semconv.DEPTH, read)
    assert bench.points("task.queue.depth") == []
    assert len(caplog.records) == 1


def test_a_source_that_hangs_gives_no_reading_and_one_warning(bench, caplog, monkeypatch):
    # Short; but whoever answers at once needs a turn in it.
    monkeypatch.setattr("otel_queue_bridge.instruments._READING_LIMIT", 1)
    measurements, answers, asked = bench.measurements(), threading.Event(), []

    def read():
        asked.append(threading.current_thread())
        answers.wait(PATIENCE)
        return [Reading(7, queue="mail")]

    end = measurements.watch(semconv.DEPTH, read)
    measurements.watch(semconv.WORKERS, lambda: [Reading(1)])
    measurements.dispatched(task(), None)
    try:
        for _ in range(4):
            assert set(bench.metrics()) == {"task.dispatched", "task.workers.active"}
    finally:
        answers.set()
    asked[0].join(PATIENCE)
    assert len(asked) == 1, "what hangs is not asked again"
    (warning,) = caplog.records
    assert "no reading" in warning.getMessage()
    monkeypatch.setattr("otel_queue_bridge.instruments._READING_LIMIT", PATIENCE)
    assert bench.totals("task.queue.depth") == {(): 7}
    end()


def test_readings_are_not_recorded_themselves(bench):
    measurements, enabled = bench.measurements(), []

    def read():
        enabled.append(is_instrumentation_enabled())
        return [Reading(1)]

    measurements.watch(semconv.WORKERS, read)
    bench.metrics()
    assert enabled == [False]
    assert is_instrumentation_enabled()


def test_metrics_can_be_switched_off(bench):
    measurements = bench.measurements(metrics=False)
    one_of_each(measurements)
    assert not measurements.active()
    assert measurements.instruments is None
    assert bench.reader.get_metrics_data() is None


@pytest.mark.parametrize("naming", ["task", "system", "messaging"])
def test_without_anything_to_record_there_is_nothing(bench, naming):
    bench.measurements(naming=naming)
    assert bench.reader.get_metrics_data() is None


def test_without_an_sdk_nothing_is_active():
    provider = NoOpMeterProvider()
    measurements = Measurements("fake", load({"meter_provider": provider}, environment={}))
    assert not measurements.active()
    one_of_each(measurements)


def test_an_sdk_that_is_set_up_later_is_found(bench, monkeypatch):
    monkeypatch.setattr(api._internal, "_METER_PROVIDER", None)
    measurements = Measurements("fake", load({}, environment={}))
    one_of_each(measurements)
    assert not measurements.active()
    monkeypatch.setattr(api._internal, "_METER_PROVIDER", bench.provider)
    assert measurements.active()
    measurements.dispatched(task(), None)
    assert bench.totals("task.dispatched") == {(): 1}


def test_counts_are_exact_over_threads(bench):
    measurements = [bench.measurements("one"), bench.measurements("two")]
    together = threading.Barrier(8)

    def record(number):
        together.wait(PATIENCE)
        for attempt in range(2000):
            measured = measurements[number % 2]
            measured.dispatched(task(f"{attempt % 3}"), None)

    threads = [threading.Thread(target=record, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        bench.reader.get_metrics_data()
    for thread in threads:
        thread.join()
    assert bench.totals("task.dispatched", "messaging.system") == {("one",): 8000, ("two",): 8000}


def test_a_provider_that_is_gone_takes_its_instruments_along():
    import gc
    import weakref

    bench = Bench()
    measurements = bench.measurements()
    measurements.dispatched(task(), None)
    measurements.attempted(task(), SUCCESS, None, 0.02, 0.3)
    measurements.watch(semconv.WORKERS, lambda: [Reading(3)])()
    bench.provider.shutdown()
    gone = weakref.ref(bench.provider)
    del bench, measurements
    gc.collect()
    assert gone() is None
