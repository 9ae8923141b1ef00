"""Faults of FastWorker itself: a trace shows each as what it is."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from otel_queue_bridge.otlp import Span
from tests.brokers.fastworker_fleet import (
    Fleet,
    Plane,
    call,
    dialled,
    every,
    free_address,
    listening,
    only,
    outline,
    since_0_3,
)

CANCELLED = "asyncio.exceptions.CancelledError"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fastworker")) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def lone(fleet: Fleet) -> Plane:
    """A control plane without subworkers."""
    return fleet.plane("lone")


@pytest.fixture(scope="module")
def served(fleet: Fleet) -> Plane:
    """A control plane with one subworker."""
    return fleet.plane("served", subworkers=1)


def balance(counts: Counter[str]) -> int:
    """Return how many attempts were dispatched and have not ended."""
    completed = sum(n for name, n in counts.items() if name.startswith("completed"))
    return counts["dispatched"] - counts["retried"] - completed


def forward(between: Any, plane: Plane) -> bytes:
    """Pass the next request on to a control plane, and return its reply."""
    with dialled("Req0", plane.address, "normal") as requester:
        requester.send(between.recv())
        return requester.recv()


def attempts(spans: list[Span], operation: str, submit: Span) -> list[Span]:
    task_id = submit.attributes["messaging.message.id"]
    found = [s for s in every(spans, operation) if s.attributes["messaging.message.id"] == task_id]
    return sorted(found, key=lambda span: span.attributes["task.attempt"])


@since_0_3("planned start")
def test_a_planned_task_that_is_sent_again_runs_twice_in_one_trace(
    fleet: Fleet, lone: Plane
) -> None:
    # A control plane plans it and says nothing: the client takes that for a loss.
    # It must arrive before it is due, and again, when it is, be answered in time.
    trace = lone.ask(call("submit_task", "twice_ok", countdown=3), timeout=5, retries=1)
    spans = trace.spans(10)
    assert sorted(outline(spans)) == sorted(
        [
            "caller",
            "  submit",
            "    nng.req_reply ERROR TimeoutError",
            "    nng.req_reply #2",
            "    dispatch",
            "      execute success",
            "        inner",
            "    dispatch #2",
            "      execute #2 success",
            "        inner",
        ]
    )
    for dispatch in every(spans, "dispatch"):
        (execute,) = (s for s in every(spans, "execute") if s.parent_id == dispatch.span_id)
        assert execute.attributes["task.attempt"] == dispatch.attributes["task.attempt"]
    expected = {"submitted": 1, "dispatched": 2, "completed success": 2}
    assert expected.items() <= fleet.counts(expected, "twice_ok").items()


@since_0_3("two requests of one priority under way")
def test_a_reply_that_was_meant_for_another_is_an_error_of_the_exchange_alone(
    fleet: Fleet, lone: Plane
) -> None:
    # A control plane has one socket per priority, and answers whoever asked last.
    mine = lone.ask(call("delay", "wait", "mine"), timeout=2)
    fleet.at_gate("mine")
    other = lone.ask(call("submit_task", "relieve", args=["mine", "other"]))
    assert other.results[0]["task_id"] == mine.results[0]  # FastWorker's, not ours
    fleet.open_gate("other")
    assert other.outline(5) == [
        "caller",
        "  submit ERROR crossed_reply",
        "    nng.req_reply ERROR crossed_reply",
        "    dispatch",
        "      execute success",
    ]
    assert mine.outline(5) == [
        "caller",
        "  submit",
        "    nng.req_reply ERROR TimeoutError",
        "    dispatch",
        "      execute success",
    ]
    # What the control plane cannot reply to this one may reach the next that asks.
    unanswered = only(other.spans(5), "submit").attributes["messaging.message.id"]
    lone.process.wait_for(f"Failed to send error for task {unanswered}")
    after = lone.submit("ok").outline(6)
    assert not [line for line in after if "ERROR" in line]


@since_0_3("submit_batch")
def test_a_task_of_a_batch_that_is_run_again_is_an_attempt(fleet: Fleet, served: Plane) -> None:
    trace = served.ask(call("submit_batch", [{"task_name": "rerun_wait", "args": ["rerun"]}] * 2))
    (ids,) = trace.results
    (subworker,) = served.subworkers.values()
    for task_id in ids:
        subworker.wait_for(f"received TaskPriority.NORMAL task {task_id}")
    fleet.open_gate("rerun")
    spans = trace.spans(11)
    ours, crossed = every(spans, "nng.req_reply")
    assert (ours.status, len(ours.links)) == ("UNSET", 2)
    assert (crossed.status, crossed.attributes["error.type"]) == ("ERROR", "crossed_reply")
    for submit in every(spans, "submit"):
        dispatches = attempts(spans, "dispatch", submit)
        executes = attempts(spans, "execute", submit)
        assert [span.parent_id for span in dispatches] == [submit.span_id] * len(dispatches)
        assert [span.parent_id for span in executes] == [span.span_id for span in dispatches]
        assert (dispatches[0].status, executes[0].status) == ("UNSET", "UNSET")
        assert dispatches[0].attributes["fastworker.dispatch.local"] is False
    again = only(spans, "dispatch", task_attempt=2)
    first = next(span for span in every(spans, "dispatch") if span.span_id == crossed.parent_id)
    assert again.attributes["fastworker.dispatch.local"] is True
    assert again.parent_id == first.parent_id
    assert again.start >= first.end
    expected = {"submitted": 2, "dispatched": 3, "completed success": 3}
    counts = fleet.counts(expected, "rerun_wait")
    assert expected.items() <= counts.items()
    assert balance(counts) == 0


@since_0_3("submit_batch")
def test_a_batch_that_is_sent_again_is_an_attempt(fleet: Fleet, lone: Plane) -> None:
    address = free_address()
    with listening("Rep0", address, "normal") as between, ThreadPoolExecutor() as pool:
        batch = call("submit_batch", [{"task_name": "ok"}])
        asking = pool.submit(fleet.ask, address, batch, timeout=5, retries=1)
        forward(between, lone)  # what its control plane says does not reach the client
        between.send(forward(between, lone))
        trace = asking.result()
    assert trace.outline(10) == [
        "caller",
        "  submit",
        "    nng.req_reply ERROR TimeoutError",
        "    dispatch",
        "      execute success",
        "        inner",
        "    nng.req_reply #2",
        "    dispatch #2",
        "      execute #2 success",
        "        inner",
    ]


def test_a_subworker_that_dies_leaves_nothing_that_is_not_so(fleet: Fleet) -> None:
    dying = fleet.plane("dying", subworkers=1)
    trace = dying.ask(call("submit_task", "die"), timeout=5)
    assert trace.results[0]["status"] == "failure"
    spans = trace.spans(4)
    assert outline(spans) == [
        "caller",
        "  submit ERROR TimeoutError",
        "    nng.req_reply ERROR TimeoutError",
        "    dispatch",
    ]
    assert only(spans, "dispatch").end < only(spans, "submit").end
    expected = {"submitted": 1, "dispatched": 1}  # and nobody knows what became of it
    assert fleet.counts(expected, "die") == expected


def test_a_client_without_its_control_plane_hangs_until_its_user_gives_up(
    fleet: Fleet, lone: Plane
) -> None:
    # FastWorker limits the wait for a reply, but not the wait for a peer.
    trace = fleet.ask(free_address(), call("submit_task", "nowhere"), timeout=0.1, limit=1)
    assert trace.results == ["TimeoutError"]
    assert trace.outline(3) == [
        "caller",
        f"  submit ERROR {CANCELLED}",
        f"    nng.req_reply ERROR {CANCELLED}",
    ]
    lone.submit("unknown")
    fleet.counts({"submitted": 1}, "unknown")  # its process has exported its counts
    assert fleet.counts({}, "nowhere") == {}


def test_a_client_that_leaves_ends_what_it_has_under_way(fleet: Fleet, lone: Plane) -> None:
    caller = fleet.caller("leaving")
    trace = fleet.ask(lone.address, call("delay", "wait", "left"), caller=caller)
    fleet.at_gate("left")
    fleet.end(caller)
    fleet.open_gate("left")
    assert trace.outline(5) == [
        "caller",
        "  submit",
        f"    nng.req_reply ERROR {CANCELLED}",
        "    dispatch",
        "      execute success",
    ]
