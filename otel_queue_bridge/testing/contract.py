"""The adapter contract: what every queue must show, run over one adapter by subclassing.

    class TestHuey(AdapterContract):
        lacks = {"delay": "it has no planned start"}

        @pytest.fixture(scope="class")
        def library(self):
            return Library("huey", ...)

A row is a test, named without `test_`, or several tests of one ability: retry, delay, cancel,
dead, oldest.
The rows share processes, those with the same options most of all: keep them in this order.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, TypeVar

import pytest

from otel_queue_bridge.testing.rig import Library, Rig, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from otel_queue_bridge.otlp import Span

_Test = TypeVar("_Test", bound="Callable[..., None]")


def _several(rig: Rig) -> dict[str, str]:
    """Return options that are not in each other's way; a worker takes a while to start."""
    return {
        "capture_arguments": ";".join(
            f"{rig.task_name(task)}:shown" for task in ("echo", "keywords")
        ),
        "exception_messages": "false",
        "excluded_tasks": rig.task_name("exclude?"),
        "link_after": "1",
        "linked_tasks": rig.task_name("link*"),
        "retries": "link",
    }


_QUIET = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
"""Nothing is exported before the end."""
# Options that are not in each other's way share their processes.
_B3 = {"OTEL_PROPAGATORS": "b3multi", "naming": "system"}
_JAEGER = {"OTEL_PROPAGATORS": "jaeger", "dispatch_spans": "false"}
_MIXED = {
    "OTEL_PROPAGATORS": "baggage,b3,tracecontext",
    "OTEL_PYTHON_LOG_CORRELATION": "true",
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,redis",  # and not logging
}
_PATIENT = 60.0
"""Seconds; no duration is longer, unless its unit is wrong."""


def _only(spans: Sequence[Span], operation: str) -> Span:
    (span,) = (s for s in spans if s.attributes.get("messaging.operation.name") == operation)
    return span


def _row(name: str) -> Callable[[_Test], _Test]:
    """Put a test into a row with others."""

    def mark(test: _Test) -> _Test:
        test.row = name  # type: ignore[attr-defined]
        return test

    return mark


def _row_of(test: object) -> str:
    name: str = getattr(test, "__name__", "")
    row: str = getattr(test, "row", name.removeprefix("test_"))
    return row


_DELAY = 15
"""Seconds for which a task is planned ahead: many exports see it wait."""
OLD = os.environ.get("CONTRACT_SHOWN_BY", "")
"""What shows all that depends on no version, where these are old versions."""
_CLOCK = 0.1
"""Seconds by which two clocks may differ."""
_READ = 5.0
"""Seconds within which a reading has its time stamp, on a busy machine."""
_OPERATIONS = ("submit", "dispatch", "execute")
_CHAIN = ["caller", *_OPERATIONS, "inner"]


class AdapterContract:
    """What holds for every queue, in every adapter's test suite."""

    lacks: ClassVar[Mapping[str, str]] = {}
    """Rows that the library itself makes impossible, each with the reason."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._check(cls.lacks)

    @classmethod
    def _check(cls, lacks: Mapping[str, str]) -> None:
        names = [name for name in dir(cls) if name.startswith("test_")]
        rows = {_row_of(getattr(cls, name)) for name in names}
        unknown = set(lacks) - rows
        if unknown:
            raise ValueError(f"{cls.__name__} lacks {sorted(unknown)}: rows are {sorted(rows)}")

    @pytest.fixture(scope="class")
    @classmethod
    def rig(cls, library: Library, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
        with Rig(library, tmp_path_factory.mktemp(library.system)) as rig:
            yield rig

    @pytest.fixture(autouse=True)
    def _present(self, request: pytest.FixtureRequest, library: Library) -> None:
        row, lacks = _row_of(request.function), {**library.lacks, **self.lacks}
        self._check(library.lacks)
        if row in lacks:
            pytest.skip(f"{row}: {lacks[row]}")
        if library.repeats and (OLD or row in _independent_rows()):
            pytest.skip(f"{row}: shown by {OLD or library.repeats}")

    def test_one_trace_through_caller_worker_and_task(self, rig: Rig) -> None:
        run = rig.run("span")
        run.spans(count=5)
        rig.settle()  # one too many might be late
        spans = run.spans(count=5)
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
            assert span.attributes.get(f"{rig.system}.transport", "") == rig.library.transport
            assert "error.type" not in span.attributes
        execute = _only(spans, "execute")
        assert execute.attributes["task.status"] == "success"
        assert execute.attributes["task.wait"] >= 0

    def test_baggage_is_readable_in_the_task(self, rig: Rig) -> None:
        assert rig.run("span").spans(count=5)[-1].attributes["user"] == "alice"

    def test_no_argument_leaves_the_process(self, rig: Rig) -> None:
        (execute,) = rig.run("echo", "very-visible", hidden="s3cr3t").spans("execute")
        assert execute.attributes["task.status"] == "success"  # it was called with these alone
        assert b"very-visible" not in rig.raw()
        assert b"s3cr3t" not in rig.raw()

    def test_a_finished_task_is_counted_once(self, rig: Rig) -> None:
        rig.run("counted").spans("execute")
        expected = {"submitted": 1, "dispatched": 1, "success": 1, "duration": 1, "wait": 1}
        assert rig.counts("counted", expected) == expected

    def test_a_failed_task_is_counted_once(self, rig: Rig) -> None:
        rig.run("failing").spans("execute")
        expected = {"submitted": 1, "dispatched": 1, "failure": 1, "duration": 1, "wait": 1}
        assert rig.counts("failing", expected) == expected
        (completed,) = rig.points("task.completed", "failing")
        assert completed.attributes["error.type"].endswith("BoomError")

    @_row("retry")
    def test_a_retry_is_counted_as_one(self, rig: Rig) -> None:
        rig.run("retried").spans("execute", count=2)
        attempts = {"dispatched": 2, "duration": 2, "wait": 2}
        expected = {"submitted": 1, "retried": 1, "success": 1, **attempts}
        assert rig.counts("retried", expected) == expected

    @_row("cancel")
    def test_a_cancelled_task_has_a_dispatch_and_is_counted_once(self, rig: Rig) -> None:
        run = rig.run("cancelled", cancelled=True)
        (dispatch,) = run.spans("dispatch")
        expected = {"submitted": 1, "dispatched": 1, "cancelled": 1}
        counts = rig.counts("cancelled", expected)
        executes = run.spans("execute", count=0)  # where the library decides in there
        assert counts == expected | ({"duration": 1, "wait": 1} if executes else {})
        assert [*executes, dispatch][0].attributes["task.status"] == "cancelled"
        assert run.executed == 0

    def test_dispatch_ends_at_the_hand_over(self, rig: Rig) -> None:
        spans = rig.run("slow").spans(count=4)
        dispatch, execute = _only(spans, "dispatch"), _only(spans, "execute")
        assert dispatch.end < execute.end
        assert dispatch.end - dispatch.start < execute.end - execute.start

    def test_durations_are_in_seconds(self, rig: Rig) -> None:
        rig.run("slow").spans("execute")
        rig.counts("slow", {"duration": 1})
        for point in rig.points("task.duration", "slow"):
            assert point.unit == "s"
            assert 0.4 < point.sum / point.count < _PATIENT

    def test_time_in_the_queue_is_in_seconds(self, rig: Rig) -> None:
        with self._all_busy(rig):
            run = rig.run("waiting")
            time.sleep(0.5)  # this is how long it waits at least
        (execute,) = run.spans("execute")
        assert 0.4 < execute.attributes["task.wait"] < _PATIENT
        rig.counts("waiting", {"wait": 1})
        for point in rig.points("task.wait", "waiting"):
            assert point.unit == "s"
            assert 0.4 < point.sum / point.count < _PATIENT

    @contextmanager
    def _all_busy(self, rig: Rig) -> Iterator[None]:
        """Keep all places of a worker busy."""
        gate = f"gate-{time.time_ns()}"
        try:
            for held in [rig.run("held", gate) for _ in range(rig.library.workers)]:
                held.finished()  # its first line, that is
            yield
        finally:
            rig.release(gate)

    def test_a_failing_task_is_an_error(self, rig: Rig) -> None:
        (execute,) = rig.run("fail").spans("execute")
        assert execute.status == "ERROR"
        assert execute.status_message == "it failed"
        assert execute.attributes["task.status"] == "failure"
        assert execute.attributes["error.type"].endswith("BoomError")
        (event,) = execute.events
        assert event.name == "exception"
        assert event.attributes["exception.type"] == execute.attributes["error.type"]

    @_row("retry")
    def test_a_retry_hangs_under_the_attempt_that_asked_for_it(self, rig: Rig) -> None:
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

    def test_the_depth_of_a_queue_is_what_waits_at_the_broker(self, rig: Rig) -> None:
        with self._all_busy(rig):
            runs = [rig.run("shared") for _ in range(rig.library.ahead + 3)]
            queue = runs[0].spans("submit")[0].attributes["messaging.destination.name"]
            rig.exported(lambda: rig.depth(queue) == 3, "a depth of 3", lambda: rig.depth(queue))
        for run in runs:
            run.finished()
        rig.exported(lambda: rig.depth(queue) == 0, "a depth of 0", lambda: rig.depth(queue))

    @_row("delay")
    def test_what_waits_for_its_time_is_delayed_and_not_depth(self, rig: Rig) -> None:
        runs = [rig.run("shared", delay=_DELAY) for _ in range(2)]
        queue = self._queue(runs[0])

        def states() -> tuple[int | None, int | None]:
            return rig.queue("delayed", queue), rig.depth(queue)

        rig.exported(lambda: states() == (2, 0), "2 delayed, and a depth of 0", states)
        for run in runs:
            run.finished()
        rig.exported(lambda: states() == (0, 0), "none delayed, and a depth of 0", states)

    @_row("dead")
    def test_what_failed_for_good_is_dead(self, rig: Rig) -> None:
        queue = self._queue(rig.run("fail"))
        rig.exported(lambda: rig.queue("dead", queue), "any that are dead")
        rig.settle()
        before = rig.queue("dead", queue) or 0
        for run in [rig.run("fail") for _ in range(2)]:
            run.spans("execute")

        def dead() -> int | None:
            return rig.queue("dead", queue)

        rig.exported(lambda: dead() == before + 2, f"{before} and 2 more are dead", dead)
        assert rig.depth(queue) == 0

    def test_a_worker_that_runs_a_task_is_busy(self, rig: Rig) -> None:
        rig.work()
        with self._all_busy(rig):
            self._busy(rig, rig.library.workers)
        self._busy(rig, 0)

    def _busy(self, rig: Rig, number: int) -> None:
        rig.exported(lambda: rig.busy() == number, f"{number} busy workers", rig.busy)
        rig.settle()
        assert rig.busy() == number

    @_row("oldest")
    def test_the_oldest_task_that_waits_tells_its_age(self, rig: Rig) -> None:
        with self._all_busy(rig):
            runs = [rig.run("shared") for _ in range(rig.library.ahead + 1)]
            (submit,) = runs[-1].spans("submit")
            queue = self._queue(runs[-1])

            def age() -> float:
                point = rig.oldest(queue)
                return point.value if point else math.nan

            rig.exported(lambda: age() > _READ, "an age of some seconds", age)
            runs.append(rig.run("shared"))  # the newest does not matter
            rig.exported(lambda: rig.depth(queue) == 2, "a depth of 2", lambda: rig.depth(queue))
            point = rig.oldest(queue)
            assert point
            assert point.unit == "s"
            since = point.time / 1e9 - point.value
            assert submit.start / 1e9 - _CLOCK < since < submit.end / 1e9 + _READ
        for run in runs:
            run.finished()
        rig.exported(lambda: age() == 0, "an age of 0", age)

    @staticmethod
    def _queue(run: Run) -> str:
        return str(run.spans("submit")[0].attributes["messaging.destination.name"])

    def test_workers_are_counted_while_they_run(self, rig: Rig) -> None:
        rig.work()
        self._workers(rig, rig.library.workers)

    @_row("two_workers")
    def test_two_workers_add_up_and_count_nothing_twice(self, rig: Rig) -> None:
        rig.work(count=2)
        before = rig.counts("shared")
        for run in [rig.run("shared") for _ in range(4)]:
            run.spans("execute")
        names = ("submitted", "dispatched", "success", "duration", "wait")
        expected = {name: before.get(name, 0) + 4 for name in names}
        assert rig.counts("shared", expected) == expected
        self._workers(rig, 2 * rig.library.workers)

    def test_workers_that_have_stopped_are_none(self, rig: Rig) -> None:
        rig.run("shared").spans("execute")
        rig.exported(lambda: rig.workers() is not None, "any number of workers")
        rig.stop()
        assert rig.workers() == 0
        assert rig.busy() == 0

    def _workers(self, rig: Rig, number: int) -> None:
        rig.exported(lambda: rig.workers() == number, f"{number} workers", rig.workers)
        rig.settle()
        assert rig.workers() == number

    def test_a_worker_that_is_told_to_stop_has_exported_all(self, rig: Rig) -> None:
        rig.work(options=_QUIET)
        attempts = {"ok": 1, "fail": 1, "slow": 1, "shared": 1, "counted": 1}
        if "retry" not in self.lacks:
            attempts["retry"] = 2
        if "cancel" not in self.lacks:
            rig.run("cancelled", options=_QUIET, cancelled=True)
        runs = []
        for task, count in attempts.items():
            run = rig.run(task, options=_QUIET)
            run.finished(count)  # one by one: FastWorker 0.3.0 mixes up the replies of several
            runs.append((run, count))
        everybody = rig.services(options=_QUIET)
        rig.end_caller(options=_QUIET)
        rig.stop()
        for run, count in runs:
            assert len(run.spans("dispatch", count=count)) == count
            assert len(run.spans("execute", count=count)) == count
        counts = rig.counts(
            expected={"submitted": len(runs), "success": len(runs) - 1}, by=everybody
        )
        completed = counts["success"] + counts["failure"] + counts.get("cancelled", 0)
        assert counts["submitted"] == completed
        assert counts["dispatched"] == completed + counts.get("retried", 0)
        assert completed == len(runs) + ("cancel" not in self.lacks)

    @_row("forking")
    def test_what_a_forked_child_submits_is_exported_before_it_ends(self, rig: Rig) -> None:
        run = rig.run("ok", caller="forking", options=_QUIET)
        run.finished()
        run.spans("submit")
        rig.exported(lambda: rig.points("task.submitted", "ok"), "what the child has counted")
        rig.end_caller("forking", options=_QUIET)

    def test_undo_in_a_running_worker(self, rig: Rig) -> None:
        rig.run("ok", worker="undoable").spans("dispatch")
        rig.exported(lambda: rig.workers() == rig.library.workers, "all workers", rig.workers)
        rig.undo()
        run = rig.run("undone", worker="undoable")
        run.finished()
        rig.exported(lambda: rig.workers() == 0, "no worker", rig.workers)
        rig.settle()
        assert run.spans("dispatch", count=0) == []
        assert "dispatched" not in rig.counts("undone")

    def test_switched_on_and_off_time_and_again_it_records_once(self, rig: Rig) -> None:
        run = rig.run("span", caller="cycled", worker="cycled")
        run.spans(count=5)
        expected = {"submitted": 1, "dispatched": 1, "success": 1, "duration": 1, "wait": 1}
        assert rig.counts("span", expected, by=rig.services("cycled")) == expected
        assert [span.name.partition(" ")[0] for span in run.spans(count=5)] == _CHAIN

    def test_undo_restores_the_library_exactly(self, rig: Rig) -> None:
        assert rig.run("ok", caller="cycled", worker="cycled").left == []

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

    @pytest.mark.parametrize("asked", ["child", "none"])
    def test_a_block_decides_whatever_the_worker_says(self, rig: Rig, asked: str) -> None:
        run = rig.run("ok", options={"relation": "link"}, relation=asked)
        self._belongs(run, asked)

    def test_relation_none_leaves_two_traces(self, rig: Rig) -> None:
        run = rig.run("ok", options={"relation": "none"})
        (dispatch,) = run.spans("dispatch")
        (submit,) = run.spans("submit")
        assert (dispatch.parent_id, dispatch.links) == ("", ())
        assert dispatch.trace_id != submit.trace_id

    def test_what_a_block_links_is_linked_by_a_worker_without_options(self, rig: Rig) -> None:
        self._belongs(rig.run("ok", relation="link"), "link")

    def _belongs(self, run: Run, relation: str, operation: str = "dispatch") -> None:
        """Check how what follows the submit belongs to it."""
        (submit,), (first,), (execute,) = map(run.spans, ("submit", operation, "execute"))
        assert (first.trace_id == submit.trace_id) == (relation == "child")
        assert first.parent_id == (submit.span_id if relation == "child" else "")
        links = [submit.span_id] if relation == "link" else []
        assert [link.span_id for link in first.links] == links
        assert execute.trace_id == first.trace_id
        assert submit.parent_id

    def test_without_dispatch_spans_execute_hangs_under_submit(self, rig: Rig) -> None:
        spans = rig.run("span", options=_JAEGER).spans(count=4)
        assert _only(spans, "execute").parent_id == _only(spans, "submit").span_id

    @_row("propagators")
    def test_jaeger_carries_the_trace(self, rig: Rig) -> None:
        self._one_trace(rig, _JAEGER, count=4)

    def test_without_dispatch_spans_it_is_execute_that_links(self, rig: Rig) -> None:
        run = rig.run("ok", options={"dispatch_spans": "false", "relation": "link"})
        (submit,) = run.spans("submit")
        (execute,) = run.spans("execute")
        assert execute.parent_id == ""
        assert [link.span_id for link in execute.links] == [submit.span_id]

    @pytest.mark.parametrize("asked", ["child", "none"])
    def test_without_dispatch_spans_it_is_execute_that_obeys_a_block(
        self, rig: Rig, asked: str
    ) -> None:
        options = {"dispatch_spans": "false", "relation": "link"}
        self._belongs(rig.run("ok", options=options, relation=asked), asked, "execute")

    def test_instrumented_in_code_after_the_import(self, rig: Rig) -> None:
        self._chain_of_five(rig, caller="late", worker="late")

    def test_instrumented_in_code_before_the_import(self, rig: Rig) -> None:
        self._chain_of_five(rig, caller="early", worker="early")

    def _chain_of_five(self, rig: Rig, caller: str, worker: str) -> None:
        spans = rig.run("span", caller=caller, worker=worker).spans(count=5)
        assert len({span.trace_id for span in spans}) == 1
        assert [span.name.partition(" ")[0] for span in spans] == _CHAIN

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

    @_row("propagators")
    def test_b3_carries_the_trace(self, rig: Rig) -> None:
        self._one_trace(rig, _B3, count=5)

    def _one_trace(self, rig: Rig, options: Mapping[str, str], count: int) -> None:
        spans = rig.run("span", options=options).spans(count=count)
        assert len({span.trace_id for span in spans}) == 1

    def test_naming_system_is_the_articles(self, rig: Rig) -> None:
        spans = rig.run("ok", options=_B3).spans(count=4)
        names = [span.name for span in spans[1:]]
        assert names[0] == f"{rig.system}.client.submit"
        assert names[2] == f"{rig.system}.task.execute"
        assert spans[-1].attributes["status"] == "success"
        assert "task.status" not in spans[-1].attributes

    def test_listed_arguments_and_no_others_are_recorded(self, rig: Rig) -> None:
        run = rig.run("echo", "listed", options=_several(rig), hidden="s3cr3t")
        for operation in ("submit", "execute"):
            (span,) = run.spans(operation)
            assert span.attributes["task.argument.shown"] == "listed"
        (dispatch,) = run.spans("dispatch")
        assert "task.argument.shown" not in dispatch.attributes
        assert b"s3cr3t" not in rig.raw()

    def test_arguments_that_a_task_takes_by_any_name_are_recorded_if_listed(self, rig: Rig) -> None:
        run = rig.run("keywords", options=_several(rig), shown="listed", hidden="s3cr3t")
        for operation in ("submit", "execute"):
            (span,) = run.spans(operation)
            assert span.attributes["task.argument.shown"] == "listed"
        assert span.attributes["task.status"] == "success"
        assert b"s3cr3t" not in rig.raw()

    def test_without_exception_messages_the_type_is_all(self, rig: Rig) -> None:
        (execute,) = rig.run("fail", options=_several(rig)).spans("execute")
        assert execute.status == "ERROR"
        assert execute.attributes["error.type"].endswith("BoomError")
        (event,) = execute.events
        assert "it failed" not in f"{execute.status_message} {event.attributes}"

    def test_an_excluded_task_is_counted_and_not_traced(self, rig: Rig) -> None:
        # No other row runs this task. A client may send once more what a killed worker has left
        # unanswered (nng's REQ), and the next worker counts it.
        excluded = rig.run("excluded", options=_several(rig))
        excluded.finished()
        later = rig.run("span", options=_several(rig)).spans(count=5)
        assert len({span.trace_id for span in later}) == 1
        assert excluded.id.encode() not in rig.raw()
        counts = rig.counts("excluded", {"success": 1}, by=rig.services(options=_several(rig)))
        assert counts["success"] == excluded.executed  # which is twice, if the library repeats it

    def test_a_linked_task_is_linked_whatever_relation_says(self, rig: Rig) -> None:
        self._belongs(rig.run("linked", options=_several(rig)), "link")

    @_row("retry")
    def test_a_linked_retry_starts_a_trace_at_its_submit(self, rig: Rig) -> None:
        run = rig.run("retry", options=_several(rig))
        first, second = run.spans("execute", count=2)
        submits = run.spans("submit", count=2)
        dispatch = run.spans("dispatch", count=2)[1]
        assert submits[1].parent_id == ""
        assert submits[1].trace_id != first.trace_id
        assert [(link.trace_id, link.span_id) for link in submits[1].links] == [
            (first.trace_id, first.span_id)
        ]
        assert (dispatch.parent_id, dispatch.links) == (submits[1].span_id, ())
        assert (second.trace_id, second.parent_id) == (submits[1].trace_id, dispatch.span_id)

    @_row("delay")
    def test_a_long_planned_delay_links(self, rig: Rig) -> None:
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

    def test_names_and_attributes_of_the_users_are_the_same_on_both_sides(self, rig: Rig) -> None:
        run = rig.run("echo", "acme", caller="hooked", worker="hooked", hidden="s3cr3t")
        for operation in _OPERATIONS:
            (span,) = run.spans(operation)
            assert span.name == f"{operation} echo acme"
            assert span.attributes["task.name"] == "echo acme"
        expected = {"submitted": 1, "dispatched": 1, "success": 1, "duration": 1, "wait": 1}
        assert rig.counts("echo acme", expected) == expected
        for name in ("submitted", "dispatched", "completed", "duration", "wait"):
            (point,) = rig.points(f"task.{name}", "echo acme")
            assert point.attributes["tenant"] == "acme"

    @_row("schedule")
    def test_a_run_of_a_schedule_names_it_in_every_span(self, rig: Rig) -> None:
        run = rig.run("ok", schedule="every night")
        for operation in _OPERATIONS:
            (span,) = run.spans(operation)
            assert span.attributes["task.schedule"] == "every night"
        (submit,) = rig.run("ok").spans("submit")
        assert "task.schedule" not in submit.attributes

    def test_what_is_not_sampled_is_counted_and_runs(self, rig: Rig) -> None:
        options = {"OTEL_TRACES_SAMPLER": "always_off"}
        run = rig.run("slow", options=options)
        run.finished()
        assert rig.counts("slow", {"success": 1}, by=rig.services(options=options))["success"] == 1
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
        inner = rig.run("span", options=_MIXED).spans(count=5)[-1]
        assert inner.attributes["logged"] == inner.trace_id

    @_row("propagators")
    def test_one_of_several_propagators_carries_the_trace(self, rig: Rig) -> None:
        self._one_trace(rig, _MIXED, count=5)

    def test_a_bad_option_leaves_the_queue_running(self, rig: Rig) -> None:
        run = rig.run("ok", options={"relation": "sideways"})
        run.finished()
        assert (run.executed, run.error) == (1, "")


def _independent_rows() -> set[str]:
    """Return the rows with processes that start in another way, or have other options."""
    tests = [name for name in vars(AdapterContract) if name.startswith("test_")]
    rows = [_row_of(getattr(AdapterContract, name)) for name in tests]
    first = rows.index("undo_in_a_running_worker")
    return {*rows[first:]} - {*rows[:first]}
