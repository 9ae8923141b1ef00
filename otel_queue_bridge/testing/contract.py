"""The adapter contract: what every queue must show, run over one adapter by subclassing.

    class TestHuey(AdapterContract):
        @pytest.fixture
        def rig(self): ...

A `Rig` runs the library for real: a process that submits, a worker, and an OTLP receiver.
Its tasks are `ok`, `span` (opens the span `inner` and notes there the baggage entry `user` and, as
`logged`, the trace id that OpenTelemetry's logging instrumentation gives a log record),
`slow` (takes half a second), `fail` (raises `BoomError("it failed")`), `retry` (fails once, then
succeeds), `nested` (submits `ok`), `echo` (takes `shown` and `hidden`) and `counted`. A caller
has `user=alice` in its baggage; one that is hooked notes the task's name as `hook` in the span.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from otel_queue_bridge.otlp import Span


class Run(Protocol):
    """One task, from its submit inside the span `caller` to its last attempt."""

    @property
    def id(self) -> str: ...
    @property
    def executed(self) -> int:
        """How often the task's body has run, whatever telemetry says."""

    @property
    def error(self) -> str:
        """Type name of what the submit raised, or empty."""

    def spans(self, operation: str = "", *, count: int = 1) -> Sequence[Span]:
        """Wait for `count` spans of this task and return them in order of their start.

        All of its traces' spans, without an operation.
        """

    def finished(self) -> None:
        """Wait until the body has run."""


class Rig(Protocol):
    """One queue library between real processes; each set of options has its own."""

    system: str

    def run(
        self,
        task: str,
        *,
        caller: str = "auto",
        worker: str = "auto",
        options: dict[str, str] | None = None,
        **submit: Any,
    ) -> Run:
        """Submit a task and return at once; `options` may name other variables (OTEL_...) too.

        `caller` and `worker` are instrumented by the command (auto), in code before the
        library is imported (early) or after (late), are uninstrumented again (undone), have
        our own code broken (broken), have hooks (hooked), an SDK but no instrumentation
        (bare), or the instrumentation but no SDK (off). A caller may have no broker
        (unreachable). `delay` is a planned one, in seconds; the rest is for the task.
        """

    def total(self, metric: str, task: str) -> float:
        """Sum what all processes have last said of a counter, or counted in a histogram."""

    def raw(self) -> bytes:
        """Everything that was exported, as it was sent."""

    def task_name(self, task: str) -> str: ...


def _several(rig: Rig) -> dict[str, str]:
    """Return options that are not in each other's way; a worker takes a while to start."""
    return {
        "capture_arguments": f"{rig.task_name('echo')}:shown",
        "exception_messages": "false",
        "excluded_tasks": rig.task_name("o?"),
        "link_after": "1",
    }


def _only(spans: Sequence[Span], operation: str) -> Span:
    (span,) = (s for s in spans if s.attributes.get("messaging.operation.name") == operation)
    return span


_OPERATIONS = ("submit", "dispatch", "execute")


class AdapterContract:
    """What holds for every queue, in every adapter's test suite."""

    lacks: Collection[Literal["retry", "delay"]] = ()
    """What the library itself cannot do: try a task again, plan one for later."""

    def _needs(self, ability: Literal["retry", "delay"]) -> None:
        if ability in self.lacks:
            pytest.skip(f"the library has no {ability}")

    def test_one_trace_through_caller_worker_and_task(self, rig: Rig) -> None:
        spans = rig.run("span").spans(count=5)
        by_name = {span.name: span for span in spans}
        name = rig.task_name("span")
        chain = ["caller", f"submit {name}", f"dispatch {name}", f"execute {name}", "inner"]
        assert [span.name for span in spans] == chain
        assert len({span.trace_id for span in spans}) == 1
        for parent, child in pairwise(chain):
            assert by_name[child].parent_id == by_name[parent].span_id

    def test_kinds_attributes_and_scope(self, rig: Rig) -> None:
        run = rig.run("span")
        spans = run.spans(count=5)
        assert len({_only(spans, o).attributes.get("server.address") for o in _OPERATIONS}) == 1
        kinds = {"submit": "PRODUCER", "dispatch": "CLIENT", "execute": "CONSUMER"}
        types = {"submit": "send", "dispatch": "receive", "execute": "process"}
        for operation, kind in kinds.items():
            span = _only(spans, operation)
            assert span.kind == kind
            assert (span.status, span.scope) == ("UNSET", "otel_queue_bridge")
            assert span.schema_url.endswith("/1.44.0")
            assert {
                "messaging.system": rig.system,
                "messaging.operation.name": operation,
                "messaging.operation.type": types[operation],
                "messaging.message.id": run.id,
                "task.name": rig.task_name("span"),
                "task.attempt": 1,
            }.items() <= span.attributes.items()
            assert span.attributes["messaging.destination.name"]
            assert "error.type" not in span.attributes
        execute = _only(spans, "execute")
        assert execute.attributes["task.status"] == "success"
        assert execute.attributes["task.wait"] >= 0

    def test_baggage_is_readable_in_the_task(self, rig: Rig) -> None:
        assert rig.run("span").spans(count=5)[-1].attributes["user"] == "alice"

    def test_a_finished_task_is_counted_once(self, rig: Rig) -> None:
        rig.run("counted").spans("execute")
        names = ("submitted", "dispatched", "completed", "duration", "wait")
        for name in names:
            assert rig.total(f"task.{name}", rig.task_name("counted")) == 1

    def test_no_argument_leaves_the_process(self, rig: Rig) -> None:
        rig.run("echo", shown="very-visible", hidden="s3cr3t").spans("execute")
        assert b"very-visible" not in rig.raw()
        assert b"s3cr3t" not in rig.raw()

    def test_dispatch_ends_at_the_hand_over(self, rig: Rig) -> None:
        spans = rig.run("slow").spans(count=4)
        dispatch, execute = _only(spans, "dispatch"), _only(spans, "execute")
        assert dispatch.end < execute.end
        assert dispatch.end - dispatch.start < execute.end - execute.start

    def test_a_failing_task_is_an_error(self, rig: Rig) -> None:
        (execute,) = rig.run("fail").spans("execute")
        assert execute.status == "ERROR"
        assert execute.status_message == "it failed"
        assert execute.attributes["task.status"] == "failure"
        assert execute.attributes["error.type"].endswith("BoomError")
        (event,) = execute.events
        assert event.name == "exception"
        assert event.attributes["exception.type"] == execute.attributes["error.type"]

    def test_a_retry_hangs_under_the_attempt_that_asked_for_it(self, rig: Rig) -> None:
        self._needs("retry")
        run = rig.run("retry")
        first, second = run.spans("execute", count=2)
        assert [first.attributes["task.attempt"], second.attributes["task.attempt"]] == [1, 2]
        assert first.attributes["task.status"] == "retry"
        assert second.attributes["task.status"] == "success"
        submits = run.spans("submit", count=2)
        dispatches = run.spans("dispatch", count=2)
        assert submits[1].parent_id == first.span_id
        assert dispatches[1].parent_id == submits[1].span_id
        assert second.parent_id == dispatches[1].span_id

    def test_what_a_task_submits_is_its_child(self, rig: Rig) -> None:
        spans = rig.run("nested").spans(count=7)
        name, inner = rig.task_name("nested"), rig.task_name("ok")
        (outer,) = (span for span in spans if span.name == f"execute {name}")
        (submit,) = (span for span in spans if span.name == f"submit {inner}")
        assert submit.parent_id == outer.span_id

    def test_an_uninstrumented_caller_is_served(self, rig: Rig) -> None:
        run = rig.run("ok", caller="bare")
        (execute,) = run.spans("execute")
        (dispatch,) = run.spans("dispatch")
        assert (dispatch.parent_id, execute.parent_id) == ("", dispatch.span_id)
        assert "task.wait" not in execute.attributes
        assert run.executed == 1

    def test_after_uninstrument_the_caller_is_as_before(self, rig: Rig) -> None:
        run = rig.run("ok", caller="undone")
        (dispatch,) = run.spans("dispatch")
        assert dispatch.parent_id == ""

    def test_a_failing_publish_is_an_error_and_leaves_nothing_current(self, rig: Rig) -> None:
        run = rig.run("ok", caller="unreachable")
        spans = run.spans(count=3)
        submit = next(span for span in spans if span.name.startswith("submit"))
        after = next(span for span in spans if span.name == "after")
        assert run.error
        assert submit.status == "ERROR"
        assert submit.attributes["error.type"].endswith(run.error)
        assert "task.status" not in submit.attributes
        assert after.parent_id == submit.parent_id

    def test_link_starts_a_new_trace_at_the_dispatch(self, rig: Rig) -> None:
        spans = rig.run("span", options={"relation": "link"}).spans(count=5)
        submit, dispatch, execute = (
            _only(spans, operation) for operation in ("submit", "dispatch", "execute")
        )
        assert dispatch.parent_id == ""
        assert dispatch.trace_id != submit.trace_id
        assert [(link.trace_id, link.span_id) for link in dispatch.links] == [
            (submit.trace_id, submit.span_id)
        ]
        assert (execute.trace_id, execute.parent_id) == (dispatch.trace_id, dispatch.span_id)
        assert execute.links == ()
        assert spans[-1].attributes["user"] == "alice"

    def test_relation_none_leaves_two_traces(self, rig: Rig) -> None:
        run = rig.run("ok", options={"relation": "none"})
        (dispatch,) = run.spans("dispatch")
        (submit,) = run.spans("submit")
        assert (dispatch.parent_id, dispatch.links) == ("", ())
        assert dispatch.trace_id != submit.trace_id

    def test_without_dispatch_spans_execute_hangs_under_submit(self, rig: Rig) -> None:
        spans = rig.run("span", options={"dispatch_spans": "false"}).spans(count=4)
        assert _only(spans, "execute").parent_id == _only(spans, "submit").span_id

    def test_without_dispatch_spans_it_is_execute_that_links(self, rig: Rig) -> None:
        run = rig.run("ok", options={"dispatch_spans": "false", "relation": "link"})
        (submit,) = run.spans("submit")
        (execute,) = run.spans("execute")
        assert execute.parent_id == ""
        assert [link.span_id for link in execute.links] == [submit.span_id]

    def test_instrumented_in_code_after_the_import(self, rig: Rig) -> None:
        self._chain_of_five(rig, caller="late", worker="late")

    def test_instrumented_in_code_before_the_import(self, rig: Rig) -> None:
        self._chain_of_five(rig, caller="early", worker="early")

    def _chain_of_five(self, rig: Rig, caller: str, worker: str) -> None:
        spans = rig.run("span", caller=caller, worker=worker).spans(count=5)
        assert len({span.trace_id for span in spans}) == 1
        assert [span.name.partition(" ")[0] for span in spans] == [
            "caller",
            "submit",
            "dispatch",
            "execute",
            "inner",
        ]

    def test_an_uninstrumented_worker_ignores_the_carrier(self, rig: Rig) -> None:
        run = rig.run("ok", worker="off")
        run.finished()
        (submit,) = run.spans("submit")
        assert submit.status == "UNSET"
        assert run.executed == 1

    def test_without_an_sdk_tasks_run_as_before(self, rig: Rig) -> None:
        run = rig.run("ok", caller="off", worker="off")
        run.finished()
        assert (run.executed, run.error) == (1, "")

    def test_our_own_failure_never_reaches_the_host(self, rig: Rig) -> None:
        run = rig.run("ok", caller="broken", worker="broken")
        run.finished()
        assert (run.executed, run.error) == (1, "")

    @pytest.mark.parametrize("propagators", ["b3multi", "jaeger", "baggage,b3,tracecontext"])
    def test_every_propagator_carries_the_trace(self, rig: Rig, propagators: str) -> None:
        spans = rig.run("span", options={"OTEL_PROPAGATORS": propagators}).spans(count=5)
        assert len({span.trace_id for span in spans}) == 1

    def test_naming_system_is_the_articles(self, rig: Rig) -> None:
        spans = rig.run("ok", options={"naming": "system"}).spans(count=4)
        names = [span.name for span in spans[1:]]
        assert names[0] == f"{rig.system}.client.submit"
        assert names[2] == f"{rig.system}.task.execute"
        assert spans[-1].attributes["status"] == "success"
        assert "task.status" not in spans[-1].attributes

    def test_listed_arguments_and_no_others_are_recorded(self, rig: Rig) -> None:
        run = rig.run("echo", options=_several(rig), shown="listed", hidden="s3cr3t")
        for operation in ("submit", "execute"):
            (span,) = run.spans(operation)
            assert span.attributes["task.argument.shown"] == "listed"
        (dispatch,) = run.spans("dispatch")
        assert "task.argument.shown" not in dispatch.attributes
        assert b"s3cr3t" not in rig.raw()

    def test_without_exception_messages_the_type_is_all(self, rig: Rig) -> None:
        (execute,) = rig.run("fail", options=_several(rig)).spans("execute")
        assert execute.status == "ERROR"
        assert execute.attributes["error.type"].endswith("BoomError")
        (event,) = execute.events
        assert "it failed" not in f"{execute.status_message} {event.attributes}"

    def test_an_excluded_task_is_counted_and_not_traced(self, rig: Rig) -> None:
        excluded = rig.run("ok", options=_several(rig))
        excluded.finished()
        later = rig.run("span", options=_several(rig)).spans(count=5)
        assert len({span.trace_id for span in later}) == 1
        assert excluded.id.encode() not in rig.raw()
        assert rig.total("task.completed", rig.task_name("ok")) >= 1

    def test_a_long_planned_delay_links(self, rig: Rig) -> None:
        self._needs("delay")
        run = rig.run("span", options=_several(rig), delay=3)
        (dispatch,) = run.spans("dispatch")
        (submit,) = run.spans("submit")
        (execute,) = run.spans("execute")
        assert [link.span_id for link in dispatch.links] == [submit.span_id]
        assert execute.parent_id == dispatch.span_id
        caller = run.spans(count=5)[0]
        assert execute.start - caller.start >= 1.9e9  # some plan in whole seconds
        assert execute.attributes["task.wait"] < 2

    def test_hooks_see_the_span_and_the_task(self, rig: Rig) -> None:
        run = rig.run("ok", caller="hooked", worker="hooked")
        for operation in ("submit", "execute"):
            assert run.spans(operation)[0].attributes["hook"] == rig.task_name("ok")

    def test_what_is_not_sampled_is_counted_and_runs(self, rig: Rig) -> None:
        run = rig.run("slow", options={"OTEL_TRACES_SAMPLER": "always_off"})
        run.finished()
        assert rig.total("task.completed", rig.task_name("slow")) >= 1
        assert run.id.encode() not in rig.raw()

    def test_naming_messaging_without_metrics(self, rig: Rig) -> None:
        options = {"naming": "messaging", "metrics": "false"}
        spans = rig.run("ok", options=options).spans(count=4)
        queue = spans[1].attributes["messaging.destination.name"]
        assert [span.name for span in spans[1:]] == [
            f"submit {queue}",
            f"dispatch {queue}",
            f"execute {queue}",
        ]
        assert b"messaging.client.sent.messages" not in rig.raw()

    def test_log_records_of_a_task_name_its_trace(self, rig: Rig) -> None:
        correlated = {
            "OTEL_PYTHON_LOG_CORRELATION": "true",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi",  # and not logging
        }
        inner = rig.run("span", options=correlated).spans(count=5)[-1]
        assert inner.attributes["logged"] == inner.trace_id

    def test_a_bad_option_leaves_the_queue_running(self, rig: Rig) -> None:
        run = rig.run("ok", options={"relation": "sideways"})
        run.finished()
        assert (run.executed, run.error) == (1, "")
