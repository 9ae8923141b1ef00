"""RQ's workers and work-horses come and go: nothing is lost, and nothing is counted twice."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import rq.worker
from redis import Redis
from rq.intermediate_queue import IntermediateQueue

from otel_queue_bridge.otlp import Receiver
from tests.brokers.rq_fleet import FLUSH, Fleet, complaints, end, instances, unclean
from tests.servers import Processes, Valkey

APP = "tests.brokers.rq_app"
ABANDONED = "ERROR rq.exceptions.AbandonedJobError"
both_exports = pytest.mark.parametrize("env", [{}, FLUSH], ids=["relay", "flush"])


@pytest.fixture
def fleet(
    valkey: Valkey, receiver: Receiver, processes: Processes, tmp_path: Path
) -> Iterator[Fleet]:
    fleet = Fleet(valkey.url, receiver, processes, tmp_path, APP)
    yield fleet
    fleet.stop()


def counted(fleet: Fleet, name: str, **counts: int) -> bool:
    found = fleet.finished().counts[name]
    return all(found[f"task.{metric}"] == count for metric, count in counts.items())


def finished(number: int) -> Counter[str]:
    """Return the counts of this many successful jobs whose submitter was not instrumented."""
    metrics = ("dispatched", "completed success", "duration success")
    return Counter({f"task.{metric}": number for metric in metrics})


CHAIN = ["dispatch", "dispatch > execute success"]


@both_exports
def test_a_restart_loses_nothing(fleet: Fleet, env: dict[str, str]) -> None:
    first = fleet.worker(**env)
    for name in ["success"] * 3 + ["gate"] + ["success"] * 3:
        fleet.enqueue(name)
    first.wait_for(lambda: fleet.notes("gate"))
    os.kill(first.pid, signal.SIGTERM)
    first.wait_for("warm shut down requested")
    fleet.open_gate()
    assert first.wait() == 0
    assert fleet.finished().counts["success"]["task.completed success"] == 3
    second = fleet.worker("default", "--burst", ready=None, **env)
    assert second.wait() == 0
    done = fleet.finished()
    assert done.spans == {"success": sorted(CHAIN * 6), "gate": CHAIN}
    assert done.counts == {"success": finished(6), "gate": finished(1)}
    assert complaints(first) + complaints(second) + unclean(fleet.receiver, workers=2) == []


@both_exports
def test_a_pool_loses_nothing(fleet: Fleet, env: dict[str, str]) -> None:
    """Its workers are children of multiprocessing, which run no atexit handlers."""
    pool = fleet.pool(2, OTEL_BSP_SCHEDULE_DELAY="60000", **env)
    for name in ["success"] * 8 + ["submits"] * 2 + ["killed"]:
        fleet.enqueue(name)
    pool.wait_for(lambda: counted(fleet, "killed", **{"completed failure SIGKILL": 1}))
    pool.wait_for(lambda: counted(fleet, "submitted", **{"completed success": 2}))
    end(pool)
    done = fleet.finished()
    assert done.spans["success"] == sorted(CHAIN * 8)
    assert done.counts["success"] == finished(8)
    assert done.counts["submits"] == finished(2)
    assert done.counts["submitted"] == finished(2) + Counter({"task.submitted": 2, "task.wait": 2})
    assert len(done.spans["submitted"]) == 6
    assert done.spans["killed"] == ["dispatch", "dispatch > execute failure ERROR SIGKILL"]
    assert complaints(pool) + unclean(fleet.receiver, workers=2) == []


def test_a_worker_whose_work_horse_was_killed_is_not_busy(fleet: Fleet) -> None:
    worker = fleet.worker()
    fleet.enqueue("gate")
    worker.wait_for(lambda: fleet.notes("gate"))

    def busy() -> list[float]:
        return [p.value for p in fleet.receiver.latest() if p.metric == "task.workers.busy"]

    worker.wait_for(lambda: busy() == [1])
    for child in worker.members() - {worker.pid}:
        os.kill(child, signal.SIGKILL)
    worker.wait_for(lambda: busy() == [0])
    end(worker)


def test_gauges_show_workers_and_what_is_ready_alone(fleet: Fleet) -> None:
    pool = fleet.pool(2)
    fleet.enqueue("gate")
    fleet.enqueue("gate")
    pool.wait_for(lambda: len(fleet.notes("gate")) == 2)
    for _ in range(3):
        fleet.enqueue("success")
    with Redis.from_url(fleet.broker) as client:
        assert client.zcard("rq:wip:default") == 2
        assert client.llen("rq:queue:default") == 3
        client.zadd("rq:scheduled:default", {"some": 4e9})
        client.zadd("rq:failed:default", {"kept": 4e9, "for ever": -1, "expired": 4})
    fleet.enqueue("success", depends_on=fleet.enqueue("gate"))

    def last(metric: str) -> list[float]:
        return [p.value for p in fleet.receiver.latest() if p.metric == metric]

    pool.wait_for(lambda: last("task.workers.active") == [1, 1])
    pool.wait_for(lambda: last("task.workers.busy") == [1, 1])
    pool.wait_for(lambda: last("task.queue.depth") == [4, 4])
    pool.wait_for(lambda: last("task.queue.delayed") == [2, 2])
    pool.wait_for(lambda: last("task.queue.dead") == [2, 2])
    queues = [p for p in fleet.receiver.latest() if p.metric == "task.queue.depth"]
    assert {p.attributes["messaging.destination.name"] for p in queues} == {"default"}
    assert len(instances(queues)) == 2
    fleet.open_gate()
    pool.wait_for(lambda: last("task.queue.depth") == [0, 0])
    pool.wait_for(lambda: last("task.queue.delayed") == [1, 1])
    pool.wait_for(lambda: last("task.workers.busy") == [0, 0])
    end(pool)
    assert complaints(pool) + unclean(fleet.receiver, workers=2) == []


def expire(fleet: Fleet) -> None:
    """Make the started jobs look abandoned, as if their last heartbeat was long ago."""
    with Redis.from_url(fleet.broker) as client:
        for entry in client.zrange("rq:wip:default", 0, -1):
            client.zadd("rq:wip:default", {entry: 1})


def test_what_died_with_its_worker_is_told_by_the_next(fleet: Fleet) -> None:
    """So is a job whose work-horse exited with 0 in the middle: RQ believes that it still runs."""
    pool = fleet.pool(2)
    names = ("exits_well", "gate", "gate_retried")
    fleet.caller().ask([[name] for name in names])
    for name in names:
        pool.wait_for(lambda: counted(fleet, name, dispatched=1))  # noqa: B023 - called at once
        pool.wait_for(lambda: len(fleet.finished().spans[name]) == 2)  # noqa: B023
    pool.wait_for(lambda: len(fleet.notes("gate")) == 2)
    pool.lose_power()
    assert {name: len(fleet.finished().spans[name]) for name in names} == dict.fromkeys(names, 2)
    expire(fleet)
    fleet.open_gate()
    worker = fleet.worker("default", "--burst", ready=None)
    assert worker.wait() == 0
    done = fleet.finished()
    submit = ["submit", "submit > dispatch"]
    for name in ("gate", "exits_well"):
        assert done.spans[name] == [*submit, f"submit > execute failure {ABANDONED}"]
        assert done.counts[name] == Counter(
            {
                "task.submitted": 1,
                "task.dispatched": 1,
                "task.completed failure rq.exceptions.AbandonedJobError": 1,
                "task.duration failure rq.exceptions.AbandonedJobError": 1,
                "task.wait": 1,
            }
        )
    again = f"submit > execute retry {ABANDONED}"
    assert done.spans["gate_retried"] == [
        *submit,
        again,
        f"{again} > submit #2",
        f"{again} > submit #2 > dispatch #2",
        f"{again} > submit #2 > dispatch #2 > execute #2 success",
    ]
    assert done.counts["gate_retried"] == Counter(
        {
            "task.submitted": 1,
            "task.dispatched": 2,
            "task.retried": 1,
            "task.completed success": 1,
            "task.duration retry rq.exceptions.AbandonedJobError": 1,
            "task.duration success": 1,
            "task.wait": 2,
        }
    )
    for span in fleet.receiver.spans():  # from its own start, in whatever zone: hours off, else
        assert 0 < span.end - span.start < 3600e9
    assert complaints(worker) + unclean(fleet.receiver, workers=3) == []


def test_a_deploy_on_heroku(fleet: Fleet) -> None:
    """The worker asks its work-horse to end, which then raises in the job."""
    worker = fleet.worker(kind=f"{APP}.Impatient")
    fleet.enqueue("gate")
    worker.wait_for(lambda: fleet.notes("gate"))
    end(worker)
    error = "rq.exceptions.ShutDownImminentException"
    assert fleet.finished().spans["gate"] == [
        "dispatch",
        f"dispatch > execute failure ERROR {error}",
    ]
    assert counted(fleet, "gate", **{f"completed failure {error}": 1})
    assert complaints(worker) + unclean(fleet.receiver) == []


@pytest.mark.parametrize(("wait", "error"), [("rq", "SIGKILL"), ("own", "_OTHER")])
def test_an_unknown_cause_of_death_is_no_time_limit(fleet: Fleet, wait: str, error: str) -> None:
    fleet.enqueue("killed")
    worker = fleet.worker("default", "--burst", kind=f"{APP}.Watching", ready=None, APP_WAIT=wait)
    assert worker.wait() == 0
    assert fleet.finished().spans["killed"] == [
        "dispatch",
        f"dispatch > execute failure ERROR {error}",
    ]
    assert counted(fleet, "killed", **{f"completed failure {error}": 1})
    assert complaints(worker) == []


def test_a_job_that_deletes_itself_and_is_killed_is_no_success(fleet: Fleet) -> None:
    fleet.enqueue("deletes_itself")
    worker = fleet.worker("default", "--burst", ready=None)
    assert worker.wait() == 0
    assert fleet.finished().spans["deletes_itself"] == [
        "dispatch",
        "dispatch > execute failure ERROR SIGKILL",
    ]
    assert counted(fleet, "deletes_itself", **{"completed failure SIGKILL": 1})
    assert complaints(worker) + unclean(fleet.receiver) == []


@pytest.mark.skipif(not hasattr(rq.worker, "SpawnWorker"), reason="this RQ spawns none")
def test_a_failure_that_rq_does_not_keep_is_no_success(fleet: Fleet) -> None:
    fleet.enqueue("failure", failure_ttl=0)
    fleet.enqueue("forgotten", result_ttl=0)
    worker = fleet.worker("default", "--burst", kind="rq.worker.SpawnWorker", ready=None)
    assert worker.wait() == 0
    assert counted(fleet, "failure", **{"completed failure _OTHER": 1, "completed success": 0})
    assert counted(fleet, "forgotten", **{"completed success": 1})
    assert complaints(worker) == []


def test_what_died_before_it_was_handed_over_is_told_by_the_next(fleet: Fleet) -> None:
    """Its worker took it from the queue, and was gone before it could note that it starts."""
    fleet.caller().ask([["success"], ["gate_retried"]])
    fleet.open_gate()
    with Redis.from_url(fleet.broker) as client:
        taken = IntermediateQueue("rq:queue:default", client)
        for number in range(2):
            entry = client.lmove("rq:queue:default", taken.key)
            client.set(taken.get_first_seen_key(entry.decode()), number + 1)
    worker = fleet.worker("default", "--burst", ready=None)
    assert worker.wait() == 0
    done = fleet.finished()
    dispatch = f"submit > dispatch failure {ABANDONED}"
    assert done.spans["success"] == ["submit", dispatch]
    error = "rq.exceptions.AbandonedJobError"
    assert done.counts["success"] == Counter(
        {"task.submitted": 1, "task.dispatched": 1, f"task.completed failure {error}": 1}
    )
    again = f"submit > dispatch retry {ABANDONED}"
    assert done.spans["gate_retried"][:3] == ["submit", again, f"{again} > submit #2"]
    assert counted(fleet, "gate_retried", dispatched=2, **{"retried": 1, "completed success": 1})
    assert complaints(worker) + unclean(fleet.receiver) == []
