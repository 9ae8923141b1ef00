"""Dispatch and execute: from the claim of a task to the last word on it.

A worker's execute begins where the body does (`Task.call`): what has no body, such as a task that
nobody knows, has a dispatch alone. It ends with `Worker.run_task`, which knows the outcome.
"""

from __future__ import annotations

from contextlib import ExitStack, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from otel_queue_bridge.adapter import REJECTED, RETRY, SUCCESS, Outcome, failed
from otel_queue_bridge.adapters.django import submit
from otel_queue_bridge.adapters.django.reading import home, is_at, task_in, task_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Operation, Recorder, Task

_BY_STATUS = {"SUCCESSFUL": SUCCESS, "READY": RETRY}


class _Run:
    """One task that is being run; `called` once its body has begun."""

    def __init__(self, *, called: bool = False) -> None:
        self.called = called
        self.error: BaseException | None = None

    def outcome(self, status: str, path: str, raised: BaseException | None) -> Outcome | None:
        """Return what the stored status says, with the exception that we have seen."""
        error, self.error = self.error, None
        if raised is not None:
            return failed(raised)
        if status != "FAILED":
            return _BY_STATUS.get(status)
        # It may be Django that fails, as with a result that is no JSON.
        name = path.removeprefix("builtins.") or None
        return failed(error) if error else Outcome("failure", error_type=name)


class _Claimed(_Run):
    """A task of a worker's: its dispatch, and from its call on its execute."""

    def __init__(self, task: Task, started: float, recorder: Recorder) -> None:
        super().__init__()
        self.task = task
        self._recorder = recorder
        self._stack = ExitStack()
        dispatch = recorder.dispatch(task, start_time=int(started * 1e9))
        self._operation: Operation = self._stack.enter_context(dispatch)

    def begin(self, task: Task) -> None:
        if self.task.carrier is not None:
            self._operation.inject(self.task.carrier)
        self._stack.close()
        self.called, self.task.arguments = True, task.arguments
        execute = self._recorder.execute(self.task, measured=True)
        self._operation = self._stack.enter_context(execute)

    def end(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            never = outcome.status == "failure" and not self.called
            self._operation.settle(REJECTED if never else outcome)
        self._stack.close()


_current: ContextVar[_Run | None] = ContextVar("otel_queue_bridge.django.run", default=None)


def run_task(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    worker, row = call.instance, call.argument(0, "db_task_result")
    # Unless this is set, `Worker.shutdown` exits at once. `run_task` sets it a moment later, when
    # the task is claimed already and would be lost; and what we write at the end would be, too.
    worker.running_task = True
    try:
        task = task_in(row, worker.worker_id)
        run = _Claimed(task, row.started_at.timestamp(), recorder)
        token = _current.set(run)
        yield
        worker.running_task = True
        _current.reset(token)
        run.end(run.outcome(row.status, row.exception_class_path, call.error))
    finally:
        worker.running_task = False


def execute(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    task, run = call.instance, _current.get()
    # The first argument may be Django's context, which is none of the user's.
    read = task_of(task, call.args[1:] if task.takes_context else call.args, call.kwargs)
    if run is None:
        # The worker of a backend that we do not know; of those that we do, a user's own call.
        if not home(task.get_backend()):
            with recorder.execute(read, measured=True) as operation:
                yield from _inside(_Run(called=True))
                operation.settle_by(call)
        return
    if isinstance(run, _Claimed) and not run.called and is_at(run.task.name, task):
        run.begin(read)
    yield
    run.error = call.error


def execute_at_once(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    result = call.argument(0, "task_result")
    task = task_of(result.task, result.args, result.kwargs)
    task.id, run = str(result.id), _Run(called=True)
    with recorder.execute(task, measured=True) as operation:
        yield from _inside(run)
        path = result.errors[-1].exception_class_path if result.errors else ""
        operation.settle(run.outcome(result.status, path, call.error) or SUCCESS)


def _inside(run: _Run) -> Generator[None, None, None]:
    running, submitting = _current.set(run), submit.current.set(None)
    yield
    with suppress(ValueError):  # a coroutine may be closed in another context
        submit.current.reset(submitting)
        _current.reset(running)
