"""Huey's workers come and go, and some peers run without us: telemetry loses nothing."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from otel_queue_bridge.otlp import Receiver
from tests.brokers.finished import Finished
from tests.brokers.forks import of_metric, totals
from tests.brokers.huey_fleet import APP, AT_THE_END, SPANS_AT_THE_END, Fleet, stop
from tests.servers import Process, Processes, Valkey, wait_until

KINDS = ["thread", "process", "greenlet"]
OK = "submit > dispatch > execute success"
INTERRUPTED = "submit > dispatch > execute failure ERROR interrupted"


@pytest.fixture
def fleet(redis_url: str, receiver: Receiver, processes: Processes, tmp_path: Path) -> Fleet:
    return Fleet(redis_url, receiver, processes, tmp_path / "app")


def steps(*paths: str) -> list[str]:
    """Return the spans of as many tasks as there are paths."""
    ways = (path.split(" > ") for path in paths)
    return sorted(" > ".join(way[:end]) for way in ways for end in range(1, len(way) + 1))


def latest(fleet: Fleet, metric: str) -> list[float]:
    """Return what each process of the consumer has last said of a gauge."""
    points = of_metric(fleet.receiver.latest(), metric)
    return [point.value for point in points if point.service == "worker"]


def counts(fleet: Fleet, name: str) -> dict[str, int]:
    found = totals(fleet.receiver.latest())
    return {
        " ".join((metric.removeprefix("task."), *status)): count
        for (metric, task, *status), count in found.items()
        if task == f"{APP}.{name}" and not metric.endswith(("wait", "duration"))
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_is_told_to_stop_at_once(fleet: Fleet, kind: str) -> None:
    """Its tasks are interrupted and lost; it reports that, and all that was before."""
    worker = fleet.consumer(kind, **SPANS_AT_THE_END)
    fleet.submitted("ok", "ok", "ok", "gate", "gate")
    worker.wait_for(lambda: len(fleet.notes("gate")) == 2)
    worker.wait_for(lambda: sum(latest(fleet, "task.workers.busy")) == 2)
    fleet.submitted("ok")
    stop(worker)
    assert len(fleet.notes("ok")) == 3
    assert fleet.notes("passed") == []
    finished = fleet.finished()
    assert finished.spans["ok"] == steps(OK, OK, OK, "submit")
    assert finished.spans["gate"] == steps(INTERRUPTED, INTERRUPTED)
    assert counts(fleet, "ok") == {"submitted": 4, "dispatched": 3, "completed success": 3}
    assert counts(fleet, "gate") == {"submitted": 2, "dispatched": 2, "completed failure": 2}
    # The scheduler may be a process that submits, and that nobody asks for a dispatch.
    assert "submit" in finished.spans["periodic"]
    assert set(latest(fleet, "task.workers.active")) == {0}
    assert set(latest(fleet, "task.workers.busy")) == {0}
    assert not fleet.receiver.rejected


@pytest.mark.parametrize("kind", ["thread", "process"])
def test_a_worker_that_restarts_and_one_that_finishes_what_it_runs(fleet: Fleet, kind: str) -> None:
    worker = fleet.consumer(kind, "--no-periodic", **AT_THE_END)
    fleet.submitted("ok")
    worker.wait_for(lambda: len(fleet.notes("ok")) == 1)
    worker.wait_for_handler(signal.SIGHUP)
    os.kill(worker.pid, signal.SIGHUP)
    worker.wait_for(lambda: worker.log().count("The following commands are available") == 2)
    assert fleet.finished().spans["ok"] == steps(OK)
    fleet.submitted("gate", "ok")
    worker.wait_for(lambda: fleet.notes("gate") and len(fleet.notes("ok")) == 2)
    worker.wait_for_handler(signal.SIGINT)
    os.kill(worker.pid, signal.SIGINT)
    worker.wait_for(lambda: "Shutting down gracefully" in worker.log())
    fleet.open_gate()
    assert worker.wait() == 0, worker.log()
    finished = fleet.finished()
    assert finished.spans["gate"] == steps(OK)
    assert finished.spans["ok"] == steps(OK, OK)
    assert counts(fleet, "ok") == {"submitted": 2, "dispatched": 2, "completed success": 2}


def test_a_process_that_is_recycled_loses_nothing(fleet: Fleet) -> None:
    worker = fleet.consumer("process", "--no-periodic", "--max-tasks=1", **AT_THE_END)
    fleet.submitted(*["ok"] * 5)
    worker.wait_for(lambda: len(fleet.notes("ok")) == 5)
    stop(worker, signal.SIGINT)
    assert fleet.finished().spans["ok"] == steps(*[OK] * 5)
    assert counts(fleet, "ok") == {"submitted": 5, "dispatched": 5, "completed success": 5}


def test_of_a_process_that_is_killed_the_dispatch_remains(fleet: Fleet) -> None:
    worker = fleet.consumer("process", "--no-periodic", "--workers=1")
    fleet.submitted("gate")
    worker.wait_for(lambda: fleet.notes("gate"))
    ((_, _, pid),) = fleet.notes("gate")
    dispatched = {"submitted": 1, "dispatched": 1}
    worker.wait_for(lambda: counts(fleet, "gate") == dispatched)
    worker.wait_for(lambda: "submit > dispatch" in fleet.finished().spans["gate"])
    os.kill(pid, signal.SIGKILL)
    fleet.submitted("ok")
    worker.wait_for(lambda: fleet.notes("ok"))
    stop(worker, signal.SIGINT)
    finished = fleet.finished()
    assert finished.spans["gate"] == ["submit", "submit > dispatch"]
    assert counts(fleet, "gate") == dispatched
    assert finished.spans["ok"] == steps(OK)
    assert not fleet.receiver.rejected


CASES = ("success", "delayed", "failure", "retry", "retry later", "pipeline", "expired", "chord")
EXECUTED = 10
"""How many of their attempts return."""


@pytest.mark.parametrize("serializer", ["", "signed gzip"])
def test_fleets_of_which_one_side_is_instrumented(
    valkey: Valkey, processes: Processes, tmp_path: Path, serializer: str
) -> None:
    """Whichever side it is, all tasks come to the same."""
    redis = valkey.url.rpartition("/")[0]
    workers = {}
    with Receiver() as client_side, Receiver() as server_side:
        for number, (side, receiver) in enumerate(
            {"client": client_side, "server": server_side}.items()
        ):
            fleet = Fleet(
                f"{redis}/{number + 10}",
                receiver,
                processes,
                tmp_path / side,
                APP_SERIALIZER=serializer,
            )
            fleet.submitted(*CASES, instrumented=side == "client")
            # One worker takes them in their order.
            options = ("--no-periodic", "--workers=1")
            workers[side] = fleet.consumer("thread", *options, instrumented=side == "server")
        ended = {side: ended_tasks(worker) for side, worker in workers.items()}
        assert ended["client"] == ended["server"]
        assert ended["client"] == Counter(executed=EXECUTED, failed=3, expired=1)
        for worker in workers.values():
            stop(worker, signal.SIGINT)
        spans = client_side.spans()
        assert {span.name.partition(" ")[0] for span in spans} == {"submit", "caller"}
        finished = Finished(server_side, f"{APP}.")
        assert finished.spans["success"] == steps("dispatch > execute success > work")
        retry = "dispatch > execute retry ERROR ValueError > submit > dispatch > execute success"
        assert finished.spans["retry"] == finished.spans["retry later"] == steps(retry)
        assert finished.spans["expired"] == ["dispatch cancelled"]
        assert counts(fleet, "retry") == {"dispatched": 2, "retried": 1, "completed success": 1}


def ended_tasks(worker: Process) -> Counter[str]:
    """Return how the tasks ended, by what Huey itself logs."""

    def ended() -> Counter[str]:
        log = worker.log()
        return Counter(
            {
                "executed": log.count(" executed in "),
                "failed": log.count("Unhandled exception in task"),
                "expired": log.count("expired, not executing"),
                "unreadable": log.count("Error reading from queue"),
            }
        )

    wait_until(lambda: ended()["executed"] >= EXECUTED, what="all have run")
    return +ended()


STORAGES = {"sqlite": {}, "file": {}, "redis": {"APP_PRIORITIES": "1"}}


@pytest.mark.parametrize("storage", STORAGES)
def test_gauges_tell_what_waits(
    redis_url: str, receiver: Receiver, processes: Processes, tmp_path: Path, storage: str
) -> None:
    broker = redis_url if storage == "redis" else f"{storage}:{tmp_path / 'queue'}"
    env = {**STORAGES[storage], "APP_SERIALIZER": "signed gzip"}
    fleet = Fleet(broker, receiver, processes, tmp_path / "app", **env)
    worker = fleet.consumer("thread", "--no-periodic")
    fleet.submitted("far", "gate", "gate")
    worker.wait_for(lambda: len(fleet.notes("gate")) == 2)
    fleet.submitted("ok", "ok", "ok")

    def told() -> list[float]:
        metrics = ("queue.depth", "queue.delayed", "workers.active", "workers.busy")
        return [value for metric in metrics for value in latest(fleet, f"task.{metric}")]

    worker.wait_for(lambda: told() == [3, 1, 2, 2])
    has_oldest = storage != "file"
    if has_oldest:
        worker.wait_for(lambda: latest(fleet, "task.oldest")[0] > 1)
    fleet.open_gate()
    worker.wait_for(lambda: told() == [0, 1, 2, 0])
    worker.wait_for(lambda: latest(fleet, "task.oldest") == [0] * has_oldest)
    stop(worker, signal.SIGINT)
