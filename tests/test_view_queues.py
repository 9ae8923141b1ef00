"""The queue table, from spans and from metrics."""

import time

import pytest

from otel_queue_bridge.view import Queues, Store
from otel_queue_bridge.view.queues import STEP, WINDOW
from tests.otlp_spans import metric, spans, task, trace_id


@pytest.fixture
def store() -> Store:
    return Store(Queues())


def only(store: Store) -> dict:
    (row,) = store.queues.table()
    return row


def attempt(status: str, *, trace: int = 1, end: int = 100, **more: object) -> tuple:
    return (
        task("submit", 1, trace=trace),
        task("dispatch", 2, 1, trace=trace),
        task("execute", 3, 2, trace=trace, status=status, end=end, **more),
    )


def test_spans_are_counted(store: Store) -> None:
    for number, status in enumerate(["success"] * 3 + ["failure", "retry"], 1):
        store.add(spans(*attempt(status, trace=number, wait=0.2)))
    row = only(store)
    assert (row["system"], row["queue"], row["task"]) == ("celery", "default", "send")
    assert (row["submitted"], row["completed"], row["retried"]) == (5, 4, 1)
    assert row["failed_percent"] == 25
    assert row["submitted_per_s"] == pytest.approx(5 / WINDOW)
    assert row["run_p50_ms"] == pytest.approx(100, rel=0.08)
    assert row["wait_p95_ms"] == pytest.approx(200, rel=0.08)
    assert row["source"] == "spans"
    assert (row["depth"], row["workers"]) == (None, None)


def test_a_retry_is_no_new_submit(store: Store) -> None:
    store.add(spans(task("submit", 1), task("submit", 2, attempt=2), task("submit", 3, error=True)))
    assert only(store)["submitted"] == 1


def test_a_task_that_never_ran_is_completed_by_its_dispatch(store: Store) -> None:
    store.add(spans(task("submit", 1), task("dispatch", 2, 1, status="cancelled")))
    assert (only(store)["completed"], only(store)["run_p50_ms"]) == (1, None)


def test_samples_are_the_failed_and_the_slowest(store: Store) -> None:
    for number in range(1, 20):
        store.add(spans(*attempt("success", trace=number, end=number * 10)))
    store.add(spans(*attempt("failure", trace=50)))
    samples = only(store)["samples"]
    assert [one["trace_id"] for one in samples[:2]] == [trace_id(50), trace_id(19)]
    assert [one["why"] for one in samples[:2]] == ["failed", "slow"]


def test_metrics_that_count_more_win(store: Store) -> None:
    store.add(spans(*attempt("success")))
    store.add(metric("task.completed", 40, task_status="success"))
    store.add(metric("task.completed", 10, task_status="failure"))
    store.add(metric("task.submitted", 50))
    row = only(store)
    assert (row["source"], row["submitted"], row["completed"]) == ("metrics", 50, 50)
    assert row["failed_percent"] == 20
    assert row["samples"]


def test_a_cumulative_counter_is_counted_once(store: Store) -> None:
    began = time.time()
    for value in (3, 3, 5):
        store.add(metric("task.submitted", value, began=began))
    store.add(metric("task.submitted", 4, process="2", began=began))
    assert only(store)["submitted"] == 9


def test_a_counter_that_begins_anew_is_counted_from_zero(store: Store) -> None:
    now = time.time()
    store.add(metric("task.submitted", 5, began=now - 2))
    store.add(metric("task.submitted", 1, began=now - 1))
    assert only(store)["submitted"] == 6


def test_what_was_counted_long_ago_is_not_of_now(store: Store) -> None:
    began = time.time() - WINDOW - 1
    store.add(metric("task.submitted", 1_000, began=began))
    store.add(metric("task.submitted", 1_003, began=began))
    assert only(store)["submitted"] == 3


def test_deltas_add_up(store: Store) -> None:
    for value in (3, 4):
        store.add(metric("task.submitted", value, cumulative=False))
    assert only(store)["submitted"] == 7


@pytest.mark.parametrize("name", ["task.wait", "celery.tasks.wait"])
def test_histograms_become_quantiles(store: Store, name: str) -> None:
    store.add(metric("task.submitted", 100))
    store.add(metric(name, buckets=(0, 90, 10, 0), bounds=(0.1, 0.2, 10.0)))
    row = only(store)
    assert 100 < row["wait_p50_ms"] < 200
    assert 200 < row["wait_p95_ms"] < 10_000


@pytest.mark.parametrize("name", ["task.submitted", "celery.tasks.submitted"])
def test_every_vocabulary_is_read(store: Store, name: str) -> None:
    store.add(metric(name, 2))
    assert only(store)["submitted"] == 2


def test_gauges_are_those_of_living_processes(store: Store) -> None:
    store.add(metric("task.submitted", 2))
    for process in ("1", "2"):
        store.add(metric("task.workers.active", 4, process=process))
        store.add(metric("task.queue.depth", 7, process=process))
    assert (only(store)["workers"], only(store)["depth"]) == (8, 7)
    later = time.time() + 3600
    store.queues.clock = lambda: later
    assert (only(store)["workers"], only(store)["depth"]) == (None, None)


def test_what_waits_and_who_is_busy(store: Store) -> None:
    store.add(metric("task.submitted", 2))
    for process in ("1", "2"):
        store.add(metric("task.workers.active", 4, process=process))
        store.add(metric("task.workers.busy", 3, process=process))
        store.add(metric("task.queue.delayed", 5, process=process))
        store.add(metric("task.queue.dead", 6, process=process))
        store.add(metric("task.oldest", 2, process=process))
    row = only(store)
    assert (row["workers"], row["busy"], row["dead"], row["oldest_ms"]) == (8, 6, 6, 2000)
    assert row["delayed"] == 10, "each of Celery's workers holds its own"


def test_what_a_broker_delays_is_told_by_every_worker(store: Store) -> None:
    store.add(metric("task.submitted", 2, messaging_system="rq"))
    for process in ("1", "2"):
        store.add(metric("task.queue.delayed", 5, process=process, messaging_system="rq"))
    assert only(store)["delayed"] == 5


def test_the_window_moves_on(store: Store) -> None:
    store.add(spans(*attempt("success")))
    assert only(store)["series"]["submitted"][-2:] != [0, 0]
    later = time.time() + WINDOW + 2 * STEP
    store.queues.clock = lambda: later
    assert only(store)["submitted"] == 0
    assert only(store)["series"]["submitted"] == [0] * (WINDOW // STEP)


def test_a_clock_ahead_of_ours_disturbs_nothing(store: Store) -> None:
    store.add(spans(*attempt("success"), began=time.time() + 10_000))
    store.add(spans(*attempt("success", trace=2)))
    assert only(store)["submitted"] == 2


def test_gauges_of_countless_processes_are_bounded(store: Store) -> None:
    store.add(metric("task.submitted", 1))
    for process in range(1_000):
        store.add(metric("task.workers.active", 1, process=str(process)))
    assert only(store)["workers"] == 200


def test_absurd_counts_are_none(store: Store) -> None:
    store.add(metric("task.submitted", 1))
    for _ in range(2):
        store.add(metric("task.submitted", 2**62, cumulative=False, process="2"))
    assert only(store)["submitted"] == 1
