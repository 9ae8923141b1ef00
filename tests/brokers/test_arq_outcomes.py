"""What becomes of ARQ's jobs, in real workers: each case of `arq_app` with its spans and counts."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_queue_bridge.otlp import Receiver, Span
from tests.brokers.arq_app import MANY
from tests.brokers.shop import ROOT, SECRET, paths
from tests.servers import CLOCK, Process, Processes, Valkey, otel_env, wait_until

APP = "tests.brokers.arq_app"
NAMES = ("submitted", "dispatched", "completed", "retried", "duration", "wait")
Counts = Counter[str]


class Shop:
    """The app's workers and callers on one Redis."""

    def __init__(
        self, valkey: Valkey, folder: Path, receiver: Receiver, processes: Processes
    ) -> None:
        with valkey.client() as client:
            client.flushall()
        self.valkey = valkey
        self.receiver = receiver
        self.gate = folder / "gate"
        self._processes = processes
        self._env = {
            "APP_BROKER": valkey.url,
            "APP_GATE": str(self.gate),
            "PYTHONPATH": str(ROOT),
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,logging",
        }

    def start(
        self, service: str, *command: str, bare: bool = False, ready: str = "", **env: str
    ) -> Process:
        program = [sys.executable, "-m", *command]
        return self._processes.start(
            service,
            program if bare else ["opentelemetry-instrument", *program],
            env=self._env | otel_env(self.receiver, service) | env,
            ready=ready or None,
            cwd=ROOT,
        )

    def worker(self, service: str = "worker", *, bare: bool = False) -> Process:
        settings = f"{APP}.WorkerSettings"
        return self.start(service, "arq", settings, bare=bare, ready="Starting worker for")

    def enqueue(self, *names: str, bare: bool = False) -> None:
        caller = self.start("caller", APP, *names, bare=bare)
        assert caller.wait() == 0, caller.log()

    def stop(self, *workers: Process) -> None:
        for worker in workers:
            os.kill(worker.pid, signal.SIGTERM)
        for worker in workers:
            worker.wait()  # with 1 if it was about to finish a job, which ARQ's `close` raises
            assert "without telemetry" not in worker.log(), worker.log()

    def spans(self, task: str = "", operation: str = "") -> list[Span]:
        spans = [
            span
            for span in self.receiver.spans()
            if task in ("", span.attributes.get("task.name"))
            and operation in ("", span.attributes.get("messaging.operation.name"))
        ]
        return sorted(spans, key=lambda span: span.start)

    def one(self, task: str, operation: str) -> Span:
        (span,) = self.spans(task, operation)
        return span

    def counts(self, task: str = "") -> Counts:
        """Return what was counted; `completed` under each status."""
        found: Counts = Counter()
        for point in self.receiver.latest():
            name = point.metric.removeprefix("task.")
            if name in NAMES and task in ("", point.attributes.get("task.name")):
                key = point.attributes["task.status"] if name == "completed" else name
                found[str(key)] += point.count or int(point.value)
        return found

    def parent(self, span: Span) -> Span:
        (found,) = (one for one in self.spans() if one.span_id == span.parent_id)
        return found


@pytest.fixture(scope="module")
def shop(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """All cases, after two workers have run them and were stopped."""
    folder = tmp_path_factory.mktemp("arq")
    with Receiver() as receiver, Processes(folder) as processes:
        shop = Shop(valkey, folder, receiver, processes)
        workers = [shop.worker("worker 1"), shop.worker("worker 2")]
        shop.enqueue()
        receiver.wait_for(lambda _: bool(shop.spans("every second", "execute")), 60)
        shop.stop(*workers)
        yield shop


DONE = {"submitted": 1, "dispatched": 1, "duration": 1, "wait": 1}
UNRUN = {"submitted": 1, "dispatched": 1}


@pytest.mark.parametrize(
    ("task", "status", "error"),
    [
        ("returns", "success", None),
        ("method", "success", None),
        ("by its path", "success", None),
        ("deferred", "success", None),
        ("fails", "failure", "ValueError"),
        ("unprintable", "failure", "ValueError"),
        ("times out", "failure", "TimeoutError"),
        ("times out, and keeps no result", "failure", "TimeoutError"),
        ("aborted", "cancelled", None),
    ],
)
def test_a_body_that_ran(shop: Shop, task: str, status: str, error: str | None) -> None:
    execute, dispatch = shop.one(task, "execute"), shop.one(task, "dispatch")
    assert shop.parent(execute) == dispatch
    assert shop.parent(dispatch) == shop.one(task, "submit")
    assert execute.attributes["task.status"] == status
    assert str(execute.attributes.get("error.type", "")).endswith(error or "")
    assert (execute.status, dispatch.status) == ("ERROR" if error else "UNSET", "UNSET")
    assert "task.status" not in dispatch.attributes
    assert shop.counts(task) == {**DONE, status: 1}


@pytest.mark.parametrize(
    ("task", "status", "error"),
    [
        ("aborted before", "cancelled", None),
        ("unknown", "rejected", None),
        ("misfits", "failure", "TypeError"),
    ],
)
def test_a_body_that_did_not_run(shop: Shop, task: str, status: str, error: str | None) -> None:
    dispatch = shop.one(task, "dispatch")
    assert shop.spans(task, "execute") == []
    assert shop.parent(dispatch) == shop.one(task, "submit")
    assert dispatch.attributes["task.status"] == status
    assert dispatch.attributes.get("error.type") == error
    assert dispatch.status == ("ERROR" if error else "UNSET")
    assert shop.counts(task) == {**UNRUN, status: 1}


def test_a_job_that_has_expired_has_no_name_any_more(shop: Shop) -> None:
    dispatch = shop.one("<unknown>", "dispatch")
    assert dispatch.attributes["messaging.message.id"] == "expires"
    assert dispatch.attributes["task.status"] == "cancelled"
    assert shop.counts("<unknown>") == {"dispatched": 1, "cancelled": 1}
    assert shop.counts("expires") == {"submitted": 1}


def test_a_retry_is_below_the_attempt_that_asked_for_it(shop: Shop) -> None:
    submits, executes = (shop.spans("retries", one) for one in ("submit", "execute"))
    assert shop.parent(submits[1]) == executes[0]
    assert shop.parent(shop.parent(executes[1])) == submits[1]
    assert [span.attributes["task.attempt"] for span in executes] == [1, 2]
    assert [span.attributes["task.status"] for span in executes] == ["retry", "success"]
    assert [span.status for span in executes] == ["UNSET", "UNSET"]
    assert executes[1].start - executes[0].start >= (0.5 - CLOCK) * 1e9
    assert executes[1].attributes["task.wait"] < executes[1].start / 1e9 - submits[1].start / 1e9
    attempts = {"dispatched": 2, "duration": 2, "wait": 2}
    assert shop.counts("retries") == {**attempts, "submitted": 1, "retried": 1, "success": 1}


def test_what_is_tried_too_often_fails_by_its_last_dispatch(shop: Shop) -> None:
    executes, dispatches = (shop.spans("exhausts", one) for one in ("execute", "dispatch"))
    assert [span.attributes["task.status"] for span in executes] == ["retry", "retry"]
    last = dispatches[-1]
    assert len(dispatches) == 3
    assert (last.status, last.attributes["task.status"]) == ("ERROR", "failure")
    assert last.attributes["error.type"] == "arq.worker.JobExecutionFailed"
    assert last.attributes["task.attempt"] == 3
    assert shop.parent(shop.parent(last)) == executes[1]
    expected = {"submitted": 1, "dispatched": 3, "retried": 2, "failure": 1}
    assert shop.counts("exhausts") == {**expected, "duration": 2, "wait": 2}
    with shop.valkey.client() as client:
        assert list(client.scan_iter("arq:retry:*")) == []


def test_planned_delay_is_no_waiting(shop: Shop) -> None:
    submit, execute = shop.one("deferred", "submit"), shop.one("deferred", "execute")
    between = (execute.start - submit.start) / 1e9
    assert between >= 1 - CLOCK
    assert execute.attributes["task.wait"] <= between - 1 + CLOCK


def test_a_second_job_of_an_id_is_not_submitted(shop: Shop) -> None:
    first, second = shop.spans("twice", "submit")
    assert shop.parent(shop.one("twice", "dispatch")) == first
    assert (second.status, second.attributes["messaging.message.id"]) == ("UNSET", "twice")
    assert shop.counts("twice") == {**DONE, "success": 1}


def test_a_number_of_the_callers_is_that_of_the_attempt(shop: Shop) -> None:
    numbers = [span.attributes["task.attempt"] for span in shop.spans("third")]
    assert numbers == [3, 3, 3]
    assert shop.counts("third") == {**DONE, "success": 1}


def test_many_at_once_do_not_mix(shop: Shop) -> None:
    executes = shop.spans("mixed", "execute")
    assert len({span.attributes["messaging.message.id"] for span in executes}) == MANY
    for execute in executes:
        job_id = execute.attributes["messaging.message.id"]
        assert shop.parent(execute).attributes["messaging.message.id"] == job_id
        below = [span for span in shop.spans() if span.parent_id == execute.span_id]
        own = {span.name for span in below if span.scope == "user"}
        assert own == {f"first {job_id}", f"last {job_id}"}
        (submit,) = (span for span in below if span.scope == "otel_queue_bridge")
        assert submit.attributes["messaging.message.id"] == f"{job_id} follows"
        assert shop.parent(shop.parent(submit)).attributes["messaging.message.id"] == job_id
    for task in ("mixed", "follows"):
        assert shop.counts(task) == dict.fromkeys((*DONE, "success"), MANY)


def test_hooks_of_the_users_are_in_the_trace(shop: Shop) -> None:
    dispatch = shop.one("returns", "dispatch")
    found = [span.name for span in shop.spans() if span.parent_id == dispatch.span_id]
    assert set(found) >= {"on_job_start", "on_job_end", "after_job_end", "execute returns"}


def test_each_tick_of_a_cron_is_a_trace_and_submitted_once(shop: Shop) -> None:
    submits, executes = (shop.spans("every second", one) for one in ("submit", "execute"))
    assert executes
    assert len({span.trace_id for span in submits}) == len(submits)
    assert len({span.attributes["messaging.message.id"] for span in submits}) == len(submits)
    assert {span.parent_id for span in submits} == {""}
    assert {span.attributes["task.schedule"] for span in shop.spans("every second")} == {
        "every second"
    }
    for execute in executes:
        assert shop.parent(shop.parent(execute)) in submits
    assert shop.counts("every second")["submitted"] == len(submits)


def test_all_adds_up(shop: Shop) -> None:
    counts = shop.counts()
    statuses = ("success", "failure", "cancelled", "rejected")
    completed = sum(counts[status] for status in statuses)
    waiting = shop.counts("every second")
    ahead = waiting["submitted"] - waiting["success"]  # a tick that waited for its time
    assert counts["submitted"] - ahead == completed
    assert counts["dispatched"] == completed + counts["retried"]


def test_a_worker_that_polls_makes_no_spans(shop: Shop) -> None:
    roots = Counter(
        span.name for span in shop.spans() if span.service != "caller" and not span.parent_id
    )
    del roots["submit every second"]
    ours = roots.pop("dispatch <unknown>")
    start = {"PING": 2, "INFO INFO INFO DBSIZE": 2}
    assert (ours, roots) == (1, Counter(start | {"DEL": 2}))
    lines = paths(shop.spans(), lambda span: span.name.split()[0])
    assert any(line.endswith("execute > submit > WATCH") for line in lines.values())


def test_no_argument_or_result_is_in_it(shop: Shop) -> None:
    raw = shop.receiver.raw()
    assert b"ValueError" in raw
    assert SECRET.encode() not in raw


# Workers that are stopped, and fleets of which one side is instrumented


@pytest.fixture
def fresh(valkey: Valkey, tmp_path: Path, receiver: Receiver, processes: Processes) -> Shop:
    return Shop(valkey, tmp_path, receiver, processes)


def runs(shop: Shop) -> None:
    with shop.valkey.client() as client:
        wait_until(lambda: client.exists("waits"), what="it runs")


def test_a_job_of_a_stopped_worker_is_run_again_in_its_trace(fresh: Shop) -> None:
    first = fresh.worker("worker 1")
    fresh.enqueue("waits")
    runs(fresh)
    fresh.stop(first)
    fresh.gate.touch()
    second = fresh.worker("worker 2")
    fresh.receiver.wait_for(lambda _: len(fresh.spans("waits", "execute")) == 2, 60)
    fresh.stop(second)
    executes = fresh.spans("waits", "execute")
    assert [span.attributes["task.status"] for span in executes] == ["retry", "success"]
    assert [span.attributes["task.attempt"] for span in executes] == [1, 2]
    assert [span.service for span in executes] == ["worker 1", "worker 2"]
    assert fresh.parent(fresh.parent(fresh.parent(executes[1]))) == executes[0]
    attempts = {"dispatched": 2, "duration": 2, "wait": 2}
    assert fresh.counts("waits") == {**attempts, "submitted": 1, "retried": 1, "success": 1}
    with fresh.valkey.client() as client:
        assert list(client.scan_iter("arq:retry:*")) == []


def test_a_worker_in_a_child_of_multiprocessing_exports_all(fresh: Shop) -> None:
    fresh.enqueue("by its path", "fails")
    never = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
    worker = fresh.start("worker", APP, "child", **never)
    assert worker.wait() == 0, worker.log()
    assert fresh.one("by its path", "execute").attributes["task.status"] == "success"
    assert fresh.counts("fails") == {**DONE, "failure": 1}


@pytest.mark.parametrize("bare", ["worker 1", "worker 2", "caller"])
def test_a_fleet_of_which_one_is_not_instrumented(fresh: Shop, bare: str) -> None:
    first = fresh.worker("worker 1", bare=bare == "worker 1")
    fresh.enqueue("waits", bare=bare == "caller")
    runs(fresh)
    fresh.stop(first)
    fresh.gate.touch()
    second = fresh.worker("worker 2", bare=bare == "worker 2")
    with fresh.valkey.client() as client:
        wait_until(lambda: list(client.scan_iter("arq:result:*")), what="its result")
    fresh.stop(second)
    executes = {span.service: span for span in fresh.spans("waits", "execute")}
    if bare == "worker 1":
        assert executes["worker 2"].attributes["task.attempt"] == 2
        assert fresh.parent(fresh.parent(executes["worker 2"])) == fresh.one("waits", "submit")
    elif bare == "worker 2":
        assert executes["worker 1"].attributes["task.status"] == "retry"
        assert fresh.counts("waits")["retried"] == 1
    else:
        assert len({span.trace_id for span in executes.values()}) == 1
        assert executes["worker 2"].attributes["task.status"] == "success"
