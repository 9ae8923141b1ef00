"""Attempts whose work-horse is gone: the worker reports them, or whoever finds them abandoned."""

from __future__ import annotations

import os
import signal
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Call, Outcome, Recorder, Task
from otel_queue_bridge.adapters.rq.ending import Ending
from otel_queue_bridge.adapters.rq.hand_over import HandOver
from otel_queue_bridge.adapters.rq.reading import seconds, task_of

if TYPE_CHECKING:
    from collections.abc import Generator

_TIMEOUT = "rq.timeouts.JobTimeoutException"
"""The error that RQ raises if the work-horse itself notices the time limit."""
_ABANDONED = "rq.exceptions.AbandonedJobError"

_cleaning: ContextVar[bool | None] = ContextVar("otel_queue_bridge.rq.cleaning", default=None)
"""Whether it is a worker that looks for abandoned attempts, and not the user."""


def note_cause(call: Call, _: Recorder) -> None:
    hand_over = HandOver.of(call.argument(0, "job"))
    if hand_over is not None:
        hand_over.cause = _cause(call.argument(2, "ret_val"))


def fail(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    worker, job = call.instance, call.argument(0, "job")
    hand_over = HandOver.of(job)
    if hand_over is None and _cleaning.get():
        yield from _never_started(call.argument(1, "queue").name, worker, job, recorder)
        return
    if hand_over is None or not hand_over.here or Ending.of(job) or hand_over.reported():
        return  # the process that runs the job reports it
    stopped = worker._stopped_job_id == job.id  # noqa: SLF001 - the call that follows resets it
    hand_over.over = True
    cause = "stopped" if stopped else hand_over.cause
    yield from _report(job, hand_over.task, hand_over.complete() / 1e9, cause, recorder)


def note_exit(call: Call, _: Recorder) -> Generator[None, None, None]:
    """Note what `waitpid` says, in case that a user's `monitor_work_horse` does not tell RQ."""
    yield
    hand_over = vars(call.instance).get("otel_hand_over")
    if hand_over is not None and call.error is None and call.result[1]:
        hand_over.cause = _cause(call.result[1])


def _never_started(
    queue: str, worker: Any, job: Any, recorder: Recorder
) -> Generator[None, None, None]:
    """Report a job that died with its worker when that had taken it, and not yet handed it over."""
    if Ending.of(job) is not None or job.get_status(refresh=False) != "queued":
        return  # it has run: `StartedJobRegistry.cleanup` fails it, and leaves it in that queue
    job.otel_ending = ending = Ending()
    task = task_of(job, queue, worker.connection, worker.name)
    with recorder.dispatch(task, measured=False) as operation:
        yield  # RQ submits a retry in here
        outcome = Outcome("retry" if ending.retried else "failure", error_type=_ABANDONED)
        operation.settle(outcome)
    del job.otel_ending
    recorder.dispatched(task)
    recorder.attempted(task, outcome, started=time.time(), duration=None)


def clean_up(_: Call, recorder: Recorder) -> Generator[None, None, None]:
    with recorder.not_polling() as maintenance:  # it calls the callbacks of the tasks
        token = _cleaning.set(maintenance)
        yield
        _cleaning.reset(token)


def look(_: Call, recorder: Recorder) -> Generator[None, None, None]:
    if _cleaning.get():
        with recorder.polling():
            yield


def abandon(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    yield from _abandon(call.argument(0, "job"), recorder)


def abandon_to_retry(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    yield from _abandon(call.instance, recorder)


def _abandon(job: Any, recorder: Recorder) -> Generator[None, None, None]:
    """Report an attempt whose worker is gone, too, while another worker cleans up after it."""
    if _cleaning.get() is None or Ending.of(job) is not None:
        return
    task = task_of(job, job.origin, job.connection, job.worker_name)
    started = seconds(job.started_at) if job.started_at else time.time()
    yield from _report(job, task, started, _ABANDONED, recorder)


def write(task: Task, outcome: Outcome, started: float, recorder: Recorder) -> None:
    operation = recorder.execute(task, start_time=int(started * 1e9))
    operation.settle(outcome)
    operation.end()


def _report(
    job: Any, task: Task, started: float, cause: str, recorder: Recorder
) -> Generator[None, None, None]:
    job.otel_ending = ending = Ending()
    error_type = cause or None
    with recorder.execute(task, start_time=int(started * 1e9)) as operation:
        yield  # RQ submits a retry in here
        outcome = Outcome("retry" if ending.retried else "failure", error_type=error_type)
        operation.settle(outcome)
    del job.otel_ending
    duration = max(0.0, time.time() - started)
    recorder.attempted(task, outcome, started=started, duration=duration)


def _cause(waited: int | None) -> str:
    if waited is None:
        return _TIMEOUT
    if os.WIFSIGNALED(waited):
        return signal.Signals(os.WTERMSIG(waited)).name
    return f"exit status {os.WEXITSTATUS(waited)}"
