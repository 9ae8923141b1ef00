"""A stored job that is enqueued again and again: a trace per run, linked to where it was set up."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from otel_queue_bridge.otlp import Receiver, Span
from tests.brokers.rq_fleet import Fleet, complaints, end, unclean
from tests.servers import Processes, Valkey

APP = "tests.brokers.rq_stored_app"


@pytest.fixture
def fleet(
    valkey: Valkey, receiver: Receiver, processes: Processes, tmp_path: Path
) -> Iterator[Fleet]:
    fleet = Fleet(valkey.url, receiver, processes, tmp_path, APP)
    yield fleet
    fleet.stop()


def executes(spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.name.startswith("execute")]


def traces(spans: list[Span]) -> list[list[str]]:
    """Return the first words of the spans of each trace, traces and spans in their order."""
    found: dict[str, list[str]] = {}
    for span in spans:
        found.setdefault(span.trace_id, []).append(span.name.split(" ", 1)[0])
    return list(found.values())


@pytest.mark.parametrize("run", [["submit", "dispatch", "execute"], ["dispatch", "execute"]])
@pytest.mark.parametrize("key", ["works", "fails"])
@pytest.mark.parametrize("kind", ["rq.worker.Worker", "rq.worker.SimpleWorker"])
def test_each_run_of_a_schedule_has_a_trace(
    fleet: Fleet, run: list[str], key: str, kind: str
) -> None:
    """The first belongs to the request that stored the job; the others are linked to that.

    So it is without submits, if the process that enqueues is not instrumented.
    """
    worker = fleet.worker(kind=kind)
    fleet.caller().ask(["save", key])
    scheduler = fleet.caller(instrumented=run[0] == "submit")
    for number in range(1, 4):
        scheduler.ask(["enqueue", key])
        fleet.spans(lambda spans: len(executes(spans)) >= number)  # noqa: B023 - called at once
        with Redis.from_url(fleet.broker) as client:
            worker.wait_for(lambda: client.hget(f"rq:job:{key}", "status") != b"started")
    fleet.end_callers()
    end(worker)
    spans = fleet.spans(lambda spans: len(spans) >= 1 + 3 * len(run))
    assert traces(spans) == [["request", *run], run, run]
    first, second, third = (s for s in spans if s.name.startswith(run[0]))
    assert not first.links
    where = first.trace_id
    assert [link.trace_id for link in second.links] == [where]
    assert [link.trace_id for link in third.links] == [where]
    assert {span.attributes["task.attempt"] for span in executes(spans)} == {1}
    for span in executes(spans):
        assert span.attributes.get("task.wait", 0) < 60
    assert complaints(worker) + unclean(fleet.receiver) == []


@pytest.mark.parametrize("action", ["requeue", "requeue_in_a_span"])
def test_a_manual_requeue_belongs_to_its_span_or_has_a_trace(fleet: Fleet, action: str) -> None:
    worker = fleet.worker()
    caller = fleet.caller()
    caller.ask(["save", "fails"])
    caller.ask(["enqueue", "fails"])
    with Redis.from_url(fleet.broker) as client:
        worker.wait_for(lambda: client.zcard("rq:failed:default") == 1)
        caller.ask([action, "fails"])
        worker.wait_for(lambda: client.zcard("rq:failed:default") == 1)
    fleet.spans(lambda spans: len(executes(spans)) == 2)
    fleet.end_callers()
    end(worker)
    run = ["submit", "dispatch", "execute"]
    within = ["admin"] if action == "requeue_in_a_span" else []
    spans = fleet.spans(lambda spans: len(spans) >= 7 + len(within))
    assert traces(spans) == [["request", *run], [*within, *run]]
    first, second = (s for s in spans if s.name.startswith("submit"))
    linked = [] if within else [first.span_id]
    assert [link.span_id for link in second.links] == linked
