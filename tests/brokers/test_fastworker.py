"""FastWorker's clients, control planes and subworkers: the traces and the counts of all they do."""

import json
import pickle
import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from otel_queue_bridge.otlp import Span
from tests.brokers.fastworker_fleet import (
    APP,
    LATE,
    PRIORITIES,
    Fleet,
    Plane,
    call,
    every,
    free_address,
    listening,
    only,
    outline,
    since_0_3,
)
from tests.brokers.rq_fleet import COMPLAINTS, SCOPE
from tests.brokers.shop import SECRET
from tests.servers import CLOCK, LIMIT, wait_until

BOOM = f"{APP}.BoomError"
INVALID = "pydantic_core._pydantic_core.ValidationError"
CROWD = 50
HEARTBEAT = 10
"""Seconds between the heartbeats of a subworker."""
LOCAL = [
    "caller",
    "  submit",
    "    nng.req_reply",
    "    dispatch",
    "      execute success",
    "        inner",
]
REMOTE = [
    "caller",
    "  submit",
    "    nng.req_reply",
    "    dispatch",
    "      nng.req_reply",
    "      execute success",
    "        inner",
]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with Fleet(tmp_path_factory.mktemp("fastworker")) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def lone(fleet: Fleet) -> Plane:
    """A control plane without subworkers."""
    return fleet.plane("lone", APP_TICKS="1")


@pytest.fixture(scope="module")
def pair(fleet: Fleet) -> Plane:
    """A control plane with two subworkers."""
    return fleet.plane("pair", subworkers=2)


def in_flow(counts: Counter[str]) -> dict[str, int]:
    return {name: n for name, n in counts.items() if not name.startswith(("duration", "wait"))}


@pytest.mark.parametrize("priority", PRIORITIES)
def test_a_priority_is_a_destination_with_a_port_of_its_own(lone: Plane, priority: str) -> None:
    spans = lone.submit("ok", priority=priority).spans(len(LOCAL))
    assert outline(spans) == LOCAL
    submit = only(spans, "submit")
    assert submit.kind == "PRODUCER"
    assert {
        "messaging.destination.name": priority,
        "task.priority": priority,
        "server.address": "127.0.0.1",
        "server.port": lone.port(priority),
    }.items() <= submit.attributes.items()


def test_every_method_of_a_client_submits_once(lone: Plane) -> None:
    address = free_address()
    with listening("Pair0", address) as callback:
        trace = lone.ask(
            call("submit_task", "ok"),
            call("delay", "ok", priority="high"),
            call("delay_with_callback", "ok", address, priority="low"),
        )
        callback.recv()
        result, *ids = trace.results
        spans = trace.spans(1 + 3 * (len(LOCAL) - 1))
    assert outline(spans) == [LOCAL[0], *LOCAL[1:] * 3]
    found = [span.attributes["messaging.message.id"] for span in every(spans, "submit")]
    assert found == [result["task_id"], *ids]


@since_0_3("submit_batch")
def test_a_batch_has_a_submit_for_each_task_and_one_exchange(lone: Plane) -> None:
    batch = [{"task_name": "ok"}, {"task_name": "sync_ok"}]
    spans = lone.ask(call("submit_batch", batch)).spans(10)
    below = [LOCAL[1], *LOCAL[3:]]
    assert outline(spans) == [LOCAL[0], *below, *below, "  nng.req_reply"]
    (exchange,) = every(spans, "nng.req_reply")
    submits = every(spans, "submit")
    assert {link.span_id for link in exchange.links} == {submit.span_id for submit in submits}
    for submit in submits:
        dispatch = only(spans, "dispatch", task_name=submit.attributes["task.name"])
        execute = only(spans, "execute", task_name=submit.attributes["task.name"])
        assert (dispatch.parent_id, execute.parent_id) == (submit.span_id, dispatch.span_id)


@since_0_3("submit_batch")
def test_a_batch_of_one_is_as_a_single_task(lone: Plane) -> None:
    spans = lone.ask(call("submit_batch", [{"task_name": "ok"}])).spans(len(LOCAL))
    assert outline(spans) == LOCAL
    assert only(spans, "nng.req_reply").links == ()


def test_a_task_that_waited_for_a_control_plane_stays_below_its_submit(lone: Plane) -> None:
    trace = lone.ask(call("submit_task", "ok"), discovery=lone.discovery)
    assert trace.results[0]["status"] == "pending"
    spans = trace.spans(len(LOCAL))
    assert outline(spans) == LOCAL
    assert only(spans, "submit").end <= only(spans, "nng.req_reply").start


@since_0_3("submit_batch")
def test_a_batch_that_waited_for_a_control_plane_is_sent_one_by_one(lone: Plane) -> None:
    batch = [{"task_name": "ok"}, {"task_name": "ok", "priority": "high"}]
    trace = lone.ask(call("submit_batch", batch), discovery=lone.discovery)
    assert trace.outline(11) == [LOCAL[0], *LOCAL[1:] * 2]


def test_a_task_that_cannot_be_made_is_an_error_and_not_counted(fleet: Fleet, lone: Plane) -> None:
    trace = lone.ask(call("submit_task", "unmade", args=SECRET))
    assert trace.results == ["ValidationError"]
    assert trace.outline(2) == ["caller", f"  submit ERROR {INVALID}"]
    lone.submit("made")
    fleet.counts({"submitted": 1}, "made")  # its process has exported its counts
    assert fleet.counts({}, "unmade") == {}
    assert SECRET.encode() not in fleet.receiver.raw()


@since_0_3("submit_batch")
def test_a_batch_that_cannot_be_made_is_not_submitted(fleet: Fleet, lone: Plane) -> None:
    batch = [{"task_name": "half_made"}, {"task_name": "half_made", "args": SECRET}]
    trace = lone.ask(call("submit_batch", batch))
    assert trace.results == ["ValidationError"]
    assert trace.outline(3) == ["caller", *[f"  submit ERROR {INVALID}"] * 2]
    lone.submit("made_whole")
    fleet.counts({"submitted": 1}, "made_whole")
    assert fleet.counts({}, "half_made") == {}
    assert SECRET.encode() not in fleet.receiver.raw()


def test_an_exchange_names_its_peer_and_its_sizes(pair: Plane) -> None:
    spans = pair.submit("ok", priority="high").spans(len(REMOTE))
    assert outline(spans) == REMOTE
    ours, onward = every(spans, "nng.req_reply")
    target = only(spans, "dispatch").attributes["fastworker.dispatch.target"]
    for span, server in ((ours, ""), (onward, target)):
        assert (span.kind, span.status, span.scope) == ("CLIENT", "UNSET", SCOPE)
        assert span.attributes.pop("fastworker.nng.request.size") > 0
        assert span.attributes.pop("fastworker.nng.reply.size") > 0
        assert span.attributes == {
            "messaging.system": "fastworker",
            "fastworker.nng.attempt": 1,
            "server.address": "127.0.0.1",
            "server.port": pair.port("high", server),
        }


def test_asking_for_a_result_and_cancelling_is_no_exchange(lone: Plane) -> None:
    task_id = lone.submit("ok").results[0]["task_id"]
    methods = ["get_task_result", *([] if lone.old else ["cancel_task"])]
    trace = lone.ask(*[call(method, task_id) for method in methods])
    assert trace.results[0]["task_id"] == task_id
    assert trace.outline(1) == ["caller"]


def test_a_lone_control_plane_dispatches_to_itself(lone: Plane) -> None:
    dispatch = only(lone.submit("ok").spans(len(LOCAL)), "dispatch")
    assert {
        "task.worker": "control-plane",
        "fastworker.dispatch.local": True,
        "fastworker.dispatch.target": "control-plane",
    }.items() <= dispatch.attributes.items()
    assert "fastworker.dispatch.load" not in dispatch.attributes


def test_a_task_goes_to_the_subworker_with_the_least_load(fleet: Fleet, pair: Plane) -> None:
    busy = pair.delay("wait", "load", priority="low")
    fleet.at_gate("load")
    quick = pair.submit("ok", priority="high").spans(len(REMOTE))
    fleet.open_gate("load")
    waiting = busy.spans(len(REMOTE) - 1)
    targets = set()
    for spans in (quick, waiting):
        dispatch, execute = only(spans, "dispatch"), only(spans, "execute")
        target = dispatch.attributes["fastworker.dispatch.target"]
        targets.add(target)
        assert dispatch.attributes["fastworker.dispatch.local"] is False
        assert dispatch.attributes["fastworker.dispatch.load"] == 0
        assert (execute.attributes["task.worker"], execute.service) == (target, target)
    assert targets == pair.subworkers.keys()
    assert only(waiting, "dispatch").end < only(waiting, "execute").end


@pytest.mark.parametrize("plane", ["lone", "pair"])
@pytest.mark.parametrize("name", ["ok", "sync_ok"])
def test_the_users_spans_are_below_the_execute(
    request: pytest.FixtureRequest, plane: str, name: str
) -> None:
    trace = request.getfixturevalue(plane).submit(name, 7)
    expected, who = (
        (LOCAL, {"control-plane"}) if plane == "lone" else (REMOTE, {"pair-0", "pair-1"})
    )
    spans = trace.spans(len(expected))
    assert outline(spans) == expected
    assert trace.results[0]["result"] == 7
    assert only(spans, "execute").attributes["task.worker"] in who


@pytest.mark.parametrize(
    ("name", "error_type", "message"),
    [
        ("fail", BOOM, "it failed"),
        ("sync_fail", BOOM, "it failed"),
        ("own_timeout", "TimeoutError", "mine"),
        ("sync_own_timeout", "TimeoutError", "mine"),
        pytest.param("fails_before", BOOM, "in a hook", marks=since_0_3("hooks")),
        pytest.param("fails_after", BOOM, "in a hook", marks=since_0_3("hooks")),
    ],
)
def test_an_exception_is_told_as_what_it_is(
    lone: Plane, name: str, error_type: str, message: str
) -> None:
    trace = lone.submit(name)
    assert trace.results[0]["status"] == "failure"
    execute = only(trace.spans(len(LOCAL) - (name != "fails_after")), "execute")
    assert (execute.status, execute.status_message) == ("ERROR", message)
    assert execute.attributes["task.status"] == "failure"
    assert execute.attributes["error.type"] == error_type
    (event,) = execute.events
    assert (event.name, event.attributes["exception.type"]) == ("exception", error_type)
    assert event.attributes["exception.message"] == message
    if name != "sync_own_timeout":  # asyncio replaces it when it leaves the thread
        assert 'fastworker_app.py", line' in event.attributes["exception.stacktrace"]


@since_0_3("time limit")
def test_a_time_limit_is_a_failure(fleet: Fleet, lone: Plane) -> None:
    trace = lone.ask(
        call("submit_task", "too_long", args=["never"]),
        call("submit_task", "sync_too_long", args=["late"], priority="high"),
        together=True,
    )
    fleet.open_gate("late")
    assert [result["status"] for result in trace.results] == ["failure", "failure"]
    executes = every(trace.spans(9), "execute")
    assert {span.attributes["task.name"] for span in executes} == {"too_long", "sync_too_long"}
    for execute in executes:
        assert (execute.status, execute.attributes["task.status"]) == ("ERROR", "failure")
        assert execute.attributes["error.type"] == "TimeoutError"
        assert execute.end - execute.start >= (0.3 - CLOCK) * 1e9


def test_what_nobody_has_registered_is_rejected_by_a_lone_control_plane(
    fleet: Fleet, lone: Plane
) -> None:
    trace = lone.submit("unknown_local")
    assert trace.results[0]["status"] == "failure"
    assert trace.outline(4) == [*LOCAL[:3], "    dispatch rejected"]
    expected = {"submitted": 1, "dispatched": 1, "completed rejected": 1}
    assert in_flow(fleet.counts(expected, "unknown_local")) == expected


def test_what_nobody_has_registered_is_rejected_by_a_subworker(fleet: Fleet, pair: Plane) -> None:
    spans = pair.submit("unknown_remote").spans(6)
    assert outline(spans) == [*REMOTE[:5], "      dispatch rejected"]
    handed_over, rejected = every(spans, "dispatch")
    assert rejected.service == handed_over.attributes["fastworker.dispatch.target"]
    expected = {"submitted": 1, "dispatched": 1, "completed rejected": 1}
    assert in_flow(fleet.counts(expected, "unknown_remote")) == expected


@since_0_3("cancel_task")
def test_a_task_that_is_cancelled_before_its_time_is_not_executed(
    fleet: Fleet, lone: Plane
) -> None:
    trace = lone.delay("cancelled_early", countdown=600)
    cancel = call("cancel_task", trace.results[0])
    wait_until(lambda: lone.ask(cancel).results[0], what="the control plane knows the task")
    spans = trace.spans(3)
    assert outline(spans) == ["caller", "  submit", "    dispatch cancelled"]
    dispatch = only(spans, "dispatch")
    assert dispatch.start <= dispatch.end
    expected = {"submitted": 1, "dispatched": 1, "completed cancelled": 1}
    assert in_flow(fleet.counts(expected, "cancelled_early")) == expected


@since_0_3("cancel_task")
def test_a_task_that_is_cancelled_while_it_runs_is_no_error(fleet: Fleet, lone: Plane) -> None:
    trace = lone.delay("wait", "cancel")
    fleet.at_gate("cancel")
    assert lone.ask(call("cancel_task", trace.results[0])).results == [True]
    fleet.open_gate("cancel")
    assert trace.outline(5) == [*LOCAL[:4], "      execute cancelled"]


@since_0_3("periodic tasks")
def test_a_run_of_a_periodic_task_is_a_trace_of_its_own(fleet: Fleet, lone: Plane) -> None:
    def ended(span: Span) -> bool:
        return bool(every([span], "execute", task_name="tick"))

    traces = [span.trace_id for span in fleet.spans(ended, 2)]
    assert len(set(traces)) == 2
    for trace in traces:
        spans = fleet.spans(lambda span, trace=trace: span.trace_id == trace, 4)
        assert outline(spans) == ["submit", "  dispatch", "    execute success", "      inner"]
        assert {span.service for span in spans} == {lone.name}
        schedules = [span.attributes.get("task.schedule") for span in spans]
        assert schedules == ["tick", "tick", "tick", None]  # the last is the user's own span
    expected = {"submitted": 2, "dispatched": 2, "completed success": 2}
    assert in_flow(fleet.counts(expected, "tick")) == expected


@since_0_3("hooks")
def test_hooks_see_a_task_without_the_carrier(fleet: Fleet, lone: Plane) -> None:
    from fastworker.tasks.models import Task

    lone.submit("hooked", 5).spans(len(LOCAL))
    before, after = fleet.notes("hook")
    for fields, dumped, shown, same_as_its_copy in (before, after):
        assert fields == sorted(Task.model_fields)
        assert sorted(json.loads(dumped)) == fields
        assert "otel" not in dumped + shown
        assert "traceparent" not in dumped + shown
        assert same_as_its_copy


def test_functions_and_results_see_no_carrier(fleet: Fleet, pair: Plane) -> None:
    from fastworker.tasks.models import TaskResult

    trace = pair.submit("ok", "plain", kwargs={"a": 1})
    (result,) = trace.results
    assert ["plain", {"a": 1}] in fleet.notes("ok")
    assert result["result"] == "plain"
    assert result.keys() == TaskResult.model_fields.keys()
    assert pair.ask(call("get_task_result", result["task_id"])).results == [result]


def test_a_run_is_over_before_its_callback_is_heard(lone: Plane) -> None:
    address = free_address()
    trace = lone.ask(
        call("delay_with_callback", "ok", address, 3, callback_data={"b": 2}, priority="low")
    )
    spans = trace.spans(len(LOCAL) - 1)  # FastWorker waits, and so does its client
    assert outline(spans) == [line for line in LOCAL if "nng" not in line]
    with listening("Pair0", address) as callback:
        message = json.loads(callback.recv())
    (task_id,) = trace.results
    assert (message.pop("task_id"), message.pop("result")) == (task_id, 3)
    assert message.pop("callback_data") == {"b": 2}
    assert message.keys() == {"status", "error", "started_at", "completed_at"}
    exchange = only(trace.spans(len(LOCAL)), "nng.req_reply")
    assert only(spans, "execute").end < exchange.end


@pytest.mark.parametrize("wire", ["json", "pickle"])
def test_what_leaves_has_one_key_more(fleet: Fleet, wire: str) -> None:
    from fastworker.tasks.models import Task

    module = {"json": json, "pickle": pickle}[wire]
    address = free_address()
    with listening("Rep0", address) as control_plane:
        trace = fleet.ask(
            address,
            call("delay", "ok", {"c": 3}, priority="critical", d=4),
            wire=wire,
        )
        sent = control_plane.recv()
        reply = module.dumps({"task_id": trace.results[0], "status": "success"})
        reply = reply if wire == "pickle" else reply.encode()
        control_plane.send(reply)
        spans = trace.spans(3)
    message = module.loads(sent)
    carrier = message.pop("otel")
    assert message.keys() == Task.model_fields.keys()
    assert (list(message["args"]), message["kwargs"]) == ([{"c": 3}], {"d": 4})
    assert only(spans, "submit").span_id in carrier["traceparent"]
    exchange = only(spans, "nng.req_reply")
    assert exchange.attributes["fastworker.nng.request.size"] == len(sent)
    assert exchange.attributes["fastworker.nng.reply.size"] == len(reply)


def test_a_pickled_task_carries_the_trace(fleet: Fleet) -> None:
    pickling = fleet.plane("pickling", subworkers=1, FASTWORKER_SERIALIZATION_FORMAT="PICKLE")
    trace = pickling.ask(call("submit_task", "ok", args=[{"e": 5}]), wire="pickle")
    assert trace.results[0]["result"] == {"e": 5}
    assert trace.outline(len(REMOTE)) == REMOTE


def test_what_is_told_to_stop_exports_all_it_has(fleet: Fleet) -> None:
    stopping = fleet.plane("stopping", **LATE)
    runs = 1
    if not stopping.old:  # 0.1.1 hands nothing out while its control plane runs a task
        # What is due at last runs in the control plane. But what arrives when it is due already, as
        # on a busy machine, goes to a subworker: so there is none yet.
        local = stopping.delay("stopped_wait", "local", countdown=0.1)
        fleet.at_gate("local")
        runs += 1
    stopping.add_subworkers(1)
    finished = stopping.submit("stopped_ok")
    remote = stopping.delay("stopped_wait", "remote", priority="low")
    fleet.at_gate("remote")
    services = {span.service for span in fleet.receiver.spans()}
    assert not services & {stopping.name, *stopping.subworkers}
    try:
        stopping.signal(signal.SIGTERM)
        assert finished.outline(len(REMOTE)) == REMOTE
        cancelled = "      execute cancelled"
        assert cancelled in remote.outline(4)
        if runs > 1:
            assert local.outline(4) == [*LOCAL[:2], LOCAL[3], cancelled]
        expected = {
            "submitted": 1 + runs,
            "dispatched": 1 + runs,
            "completed success": 1,
            "completed cancelled": runs,
        }
        assert in_flow(fleet.counts(expected, "stopped_ok", "stopped_wait")) == expected
    finally:
        stopping.signal(signal.SIGKILL)  # a control plane of 0.3.0 spins for ever


def test_a_finished_run_adds_up(fleet: Fleet, pair: Plane) -> None:
    outcomes = {"mixed_ok": 9, "mixed_sync_ok": 4, "mixed_fail": 4, "mixed_unknown": 3}
    names = list(Counter(outcomes).elements())
    while names:  # replies of one priority may be crossed
        calls = [call("submit_task", names.pop(), priority=priority) for priority in PRIORITIES]
        pair.ask(*calls, together=True)
    flow = {
        "submitted": 20,
        "dispatched": 20,
        "completed success": 13,
        f"completed failure {BOOM}": 4,
        "completed rejected": 3,
    }
    assert in_flow(fleet.counts(flow, *outcomes)) == flow
    ran = {"duration success": 13, f"duration failure {BOOM}": 4, "wait": 17}
    counts = fleet.counts(ran, *(name for name in outcomes if name != "mixed_unknown"))
    assert ran.items() <= counts.items()


def test_active_workers_are_the_subworkers_that_are_connected(
    fleet: Fleet, lone: Plane, pair: Plane
) -> None:
    def active(_: object) -> dict[str, float]:
        points = fleet.receiver.latest()
        return {p.service: p.value for p in points if p.metric == "task.workers.active"}

    expected = {lone.name: 0, pair.name: 2}
    fleet.receiver.wait_for(lambda spans: expected.items() <= active(spans).items(), LIMIT)
    assert not active(None).keys() & pair.subworkers.keys()


def test_each_priority_has_its_depth(fleet: Fleet, lone: Plane) -> None:
    def depths(_: object) -> list[str]:
        return [
            point.attributes["task.priority"]
            for point in fleet.receiver.latest()
            if (point.metric, point.service) == ("task.queue.depth", lone.name)
            and point.attributes["messaging.destination.name"] == point.attributes["task.priority"]
        ]

    fleet.receiver.wait_for(lambda spans: bool(depths(spans)), LIMIT)
    assert sorted(depths(None)) == sorted(PRIORITIES)


@since_0_3("planned start")
def test_what_is_due_and_waits_its_turn_is_depth(fleet: Fleet, lone: Plane) -> None:
    # A control plane takes one of them every tenth of a second.
    batch = [{"task_name": "sync_ok", "countdown": 0.1, "priority": "low"}] * 20

    def deep() -> bool:
        trace = lone.ask(call("submit_batch", batch))
        assert len(every(trace.spans(2 + 4 * len(batch)), "execute")) == len(batch)
        waiting = {
            point.attributes["task.priority"]
            for point in fleet.receiver.points()
            if (point.metric, point.service) == ("task.queue.depth", lone.name) and point.value > 1
        }
        return waiting == {"low"}

    # On a busy machine a batch may arrive when it is due, and then nothing of it waits.
    wait_until(deep, what="a batch that waited")
    ages = {
        point.attributes["task.priority"]: point.value
        for point in fleet.receiver.points()
        if (point.metric, point.service) == ("task.oldest", lone.name) and point.value > 0
    }
    assert ages.keys() == {"low"}
    assert ages["low"] < LIMIT


def test_a_crowd_of_tasks_stays_apart(fleet: Fleet, pair: Plane) -> None:
    calls = [
        call("delay", ("ok", "sync_ok", "fail")[number % 3], priority=PRIORITIES[number % 4])
        for number in range(CROWD)
    ]
    trace = pair.ask(*calls)

    def finished(spans: list[Span]) -> bool:
        mine = [span for span in spans if span.trace_id == trace.id]
        executed = {s.attributes["messaging.message.id"] for s in every(mine, "execute")}
        known = {"", *(span.span_id for span in mine)}
        return {*trace.results} == executed and all(span.parent_id in known for span in mine)

    mine = fleet.receiver.wait_for(finished, LIMIT)
    spans = {span.span_id: span for span in mine if span.trace_id == trace.id}
    assert len(every([*spans.values()], "submit")) == CROWD
    for execute in every([*spans.values()], "execute"):
        dispatch = spans[execute.parent_id]
        submit = spans[dispatch.parent_id]
        assert [*every([dispatch], "dispatch"), *every([submit], "submit")] == [dispatch, submit]
        for attribute in ("messaging.message.id", "task.name", "messaging.destination.name"):
            values = {span.attributes[attribute] for span in (execute, dispatch, submit)}
            assert len(values) == 1


def test_nothing_but_tasks_is_an_exchange(fleet: Fleet, pair: Plane) -> None:
    wait_until(lambda: time.monotonic() > pair.started + HEARTBEAT + 1, what="a heartbeat")
    pair.submit("ok").spans(len(REMOTE))
    known = {span.span_id: span for span in fleet.receiver.spans()}
    exchanges = every([*known.values()], "nng.req_reply")
    assert not {span.service for span in exchanges} & pair.subworkers.keys()
    for span in exchanges:
        parent = known[span.parent_id]
        batch = len(span.links) > 1 and parent.name == "caller"
        assert batch or every([parent], "submit") or every([parent], "dispatch")


def test_nothing_was_told_twice_or_complained_about(fleet: Fleet) -> None:
    told = Counter(span.span_id for span in fleet.receiver.spans())
    assert (max(told.values(), default=1), fleet.receiver.rejected) == (1, [])
    logs = [log.read_text(errors="replace") for log in fleet.folder.glob("*.log")]
    assert [line for log in logs for line in COMPLAINTS.findall(log)] == []
