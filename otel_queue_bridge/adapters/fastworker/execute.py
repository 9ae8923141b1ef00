"""Execute: one run of a task's function, with its hooks, in a control plane or a subworker.

All runs pass through `Worker._execute_task`. It turns failures into results, and waits without
limit for the receiver of a callback. So a run is over as soon as its result is known.
"""

from __future__ import annotations

import time
from asyncio import CancelledError
from contextvars import ContextVar
from typing import TYPE_CHECKING

from otel_queue_bridge.adapter import (
    CANCELLED,
    REJECTED,
    SUCCESS,
    Call,
    Operation,
    Outcome,
    Recorder,
    Task,
    failed,
)
from otel_queue_bridge.adapters.fastworker import carrier, dispatch
from otel_queue_bridge.adapters.fastworker.reading import function, task_of
from otel_queue_bridge.adapters.fastworker.worker import cancelled_by_stop

if TYPE_CHECKING:
    from collections.abc import Generator


class Run:
    """One run, until its result is known."""

    def __init__(self, task_id: str, operation: Operation) -> None:
        self.task_id = task_id
        self.error: BaseException | None = None
        self._operation = operation

    def finish(self, status: str) -> None:
        error, self.error = self.error, None
        known = {"success": SUCCESS, "cancelled": CANCELLED}
        failure = Outcome("failure") if error is None else failed(error)
        self._operation.settle(known.get(status, failure))
        self._operation.end()

    def cancel(self) -> None:
        self.finish("cancelled")


current: ContextVar[Run | None] = ContextVar("otel_queue_bridge.fastworker.attempt", default=None)


def execute(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    task, worker = call.argument(0, "task"), call.instance
    known = function(task.name) is not None
    is_control_plane = hasattr(worker, "task_queue")
    if is_control_plane:
        dispatch.keep(task, worker, recorder, known=known)
    facts = task_of(task, worker)
    facts.carrier = carrier.latest(task)
    if not known:
        if not is_control_plane:
            _reject(facts, recorder)
        return
    with recorder.execute(facts, measured=True) as operation:
        run = Run(task.id, operation)
        token = current.set(run)
        with cancelled_by_stop(worker, run):
            yield
        if isinstance(call.error, CancelledError):
            run.cancel()
        elif call.error is not None:  # FastWorker does not handle this error: the worker dies
            run.error = call.error
            run.finish("failure")
        else:
            run.finish(call.result.status.value)
        current.reset(token)


def _reject(task: Task, recorder: Recorder) -> None:
    """Report a task that is not registered here; the control plane has counted its dispatch."""
    operation = recorder.dispatch(task, measured=False)
    operation.settle(REJECTED)
    operation.end()
    recorder.attempted(task, REJECTED, started=time.time(), duration=None)


def call_back(call: Call, _: Recorder) -> None:
    run, result = current.get(), call.argument(0, "task_result")
    if run is not None and result.task_id == run.task_id:
        run.finish(result.status.value)
