"""Celery on real brokers: its workers must not lose here what they lose with others."""

import json
import signal
from pathlib import Path

import pytest

from otel_queue_bridge.otlp import Receiver, Span
from tests.brokers.shop import Shop
from tests.servers import CLOCK, Processes, wait_until


def executes(spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.name.startswith("execute ")]


@pytest.fixture(params=["redis_url", "amqp_url"])
def shop(
    request: pytest.FixtureRequest, receiver: Receiver, processes: Processes, tmp_path: Path
) -> Shop:
    return Shop(request.getfixturevalue(request.param), receiver, processes, tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("-c", "2"), id="prefork"),
        pytest.param(("-c", "2", "--max-tasks-per-child", "1"), id="recycled"),
        pytest.param(("-P", "threads", "-c", "2"), id="threads"),
        pytest.param(("-P", "solo"), id="solo"),
    ],
)
def test_no_span_is_lost_when_the_worker_is_told_to_stop(
    shop: Shop, arguments: tuple[str, ...]
) -> None:
    # By itself this batch processor would export only long after the worker has ended.
    worker = shop.worker(*arguments, OTEL_BSP_SCHEDULE_DELAY="60000")
    shop.submit("ok", "20")
    wait_until(shop.notes, what="a task has run")
    worker.stop(signal.SIGTERM)
    ran = sorted(task_id for (task_id,) in shop.notes())
    spans = shop.receiver.spans()
    assert sorted(s.attributes["messaging.message.id"] for s in executes(spans)) == ran
    assert not shop.receiver.rejected
    dispatched = {span.span_id for span in spans if span.name == "dispatch ok"}
    assert {span.parent_id for span in executes(spans)} <= dispatched


@pytest.mark.parametrize(
    ("task", "error_type"),
    [
        ("hang", "billiard.exceptions.TimeLimitExceeded"),
        ("die", "billiard.exceptions.WorkerLostError"),
    ],
)
def test_what_dies_in_the_child_is_one_error_in_the_trace(
    shop: Shop, task: str, error_type: str
) -> None:
    worker = shop.worker()
    shop.submit(task)
    shop.spans(lambda spans: bool(executes(spans)))
    worker.stop(signal.SIGTERM)
    (execute,) = executes(shop.receiver.spans())
    (dispatch,) = (s for s in shop.receiver.spans() if s.name == f"dispatch {task}")
    assert (execute.status, execute.attributes["error.type"]) == ("ERROR", error_type)
    assert execute.attributes["task.status"] == "failure"
    assert execute.parent_id == dispatch.span_id
    assert execute.end > dispatch.end
    # Spans that the child had finished by then hang under the span that the parent wrote.
    work = [span for span in shop.receiver.spans() if span.name == "user work"]
    assert [span.parent_id for span in work] == [execute.span_id] * (task == "hang")


def test_message_protocol_1_keeps_the_trace(shop: Shop) -> None:
    shop.worker(APP_PROTOCOL="1")
    shop.submit("inner", APP_PROTOCOL="1")
    spans = shop.spans(lambda spans: len(spans) == 5)
    assert [span.name for span in spans] == [
        "caller",
        "submit inner",
        "dispatch inner",
        "execute inner",
        "user work",
    ]
    assert len({span.trace_id for span in spans}) == 1


def test_a_task_that_the_caller_does_not_know(shop: Shop) -> None:
    shop.worker()
    shop.submit("unregistered")
    spans = shop.spans(lambda spans: len(spans) == 3)
    assert [span.name for span in spans] == ["submit ok", "dispatch ok", "execute ok"]


def test_the_publish_of_an_unknown_task_fails_inside_its_span(shop: Shop) -> None:
    scheme = shop.env["APP_BROKER"].partition(":")[0]
    assert shop.submit("unregistered", APP_BROKER=f"{scheme}://127.0.0.1:1//") != 0
    (span,) = shop.spans(lambda spans: len(spans) == 1)
    assert (span.name, span.status) == ("submit ok", "ERROR")
    assert span.attributes["error.type"] == "kombu.exceptions.OperationalError"


def test_headers_and_arguments_of_the_user_arrive_unchanged(shop: Shop) -> None:
    shop.worker()
    options = {"args": [1, {"a": None}], "kwargs": {"b": [2]}, "headers": {"x-mine": "1"}}
    shop.submit("headers", "1", json.dumps(options))
    ((headers, args, kwargs),) = wait_until(shop.notes)
    assert headers["x-mine"] == "1"
    assert (args, kwargs) == ([1, {"a": None}], {"b": [2]})


def test_a_trace_in_the_headers_is_the_parent_where_none_is_current(shop: Shop) -> None:
    shop.worker()
    trace_id, span_id = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace_id}-{span_id}-01"}
    shop.submit("alone", "ok", "1", json.dumps({"headers": headers}))
    spans = shop.spans(lambda spans: len(spans) == 3)
    assert {span.trace_id for span in spans} == {trace_id}
    assert spans[0].parent_id == span_id


def test_an_unknown_task_is_dispatched_and_rejected(shop: Shop) -> None:
    shop.worker()
    shop.submit("no.such.task")
    spans = shop.spans(lambda spans: len(spans) == 3)
    assert [span.name for span in spans][1:] == ["submit no.such.task", "dispatch no.such.task"]
    assert spans[-1].attributes["task.status"] == "rejected"


def test_an_expired_task_is_dispatched_and_cancelled(shop: Shop) -> None:
    shop.worker()
    shop.submit("ok", "1", json.dumps({"expires": -1}))
    spans = shop.spans(lambda spans: len(spans) == 3)
    assert spans[-1].name == "dispatch ok"
    assert spans[-1].attributes["task.status"] == "cancelled"
    assert shop.notes() == []


def test_planned_delay_is_not_waiting(shop: Shop) -> None:
    shop.worker()
    shop.submit("ok", "1", json.dumps({"countdown": 3}))
    spans = shop.spans(lambda spans: len(spans) == 4)
    caller, _, dispatch, execute = spans  # Celery plans before it publishes
    elapsed = (execute.start - caller.start) / 1e9
    assert dispatch.start - caller.start >= (3 - CLOCK) * 1e9
    assert execute.attributes["task.wait"] <= elapsed - 3 + CLOCK
