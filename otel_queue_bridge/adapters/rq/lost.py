"""Attempts whose work-horse is gone: reported by the worker, or by whoever finds them abandoned."""

from __future__ import annotations

import os
import signal
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Call, Outcome, Recorder, Task
from otel_queue_bridge.adapters.rq import ending
from otel_queue_bridge.adapters.rq.attempt import HandOver
from otel_queue_bridge.adapters.rq.reading import seconds, task_of

if TYPE_CHECKING:
    from collections.abc import Generator

_TIMEOUT = "rq.timeouts.JobTimeoutException"
"""What RQ itself raises where the work-horse still can."""
_ABANDONED = "rq.exceptions.AbandonedJobError"

_cleaning: ContextVar[bool] = ContextVar("otel_queue_bridge.rq.cleaning", default=False)


def note_cause(call: Call, _: Recorder) -> None:
    attempt = HandOver.of(call.argument(0, "job"))
    if attempt is not None:
        attempt.cause = _cause(call.argument(2, "ret_val"))


def fail(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    worker, job = call.instance, call.argument(0, "job")
    attempt = HandOver.of(job)
    if attempt is None or not attempt.here or ending.of(job) is not None or attempt.reported():
        return  # the one that runs the job reports it
    stopped = worker._stopped_job_id == job.id  # noqa: SLF001 - RQ forgets it in here
    attempt.over = True
    cause = "stopped" if stopped else attempt.cause or _TIMEOUT
    yield from _report(job, attempt.task, attempt.hand_over() / 1e9, cause, recorder)


def clean_up(_: Call, __: Recorder) -> Generator[None, None, None]:
    token = _cleaning.set(True)
    yield
    _cleaning.reset(token)


def abandon(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    yield from _abandon(call.argument(0, "job"), recorder)


def abandon_to_retry(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    yield from _abandon(call.instance, recorder)


def _abandon(job: Any, recorder: Recorder) -> Generator[None, None, None]:
    """Report an attempt whose worker is gone as well, from where a worker cleans up after it."""
    if not _cleaning.get() or ending.of(job) is not None:
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
    job.otel_ending = end = ending.Ending()
    with recorder.execute(task, start_time=int(started * 1e9)) as operation:
        yield  # a retry is submitted in here
        outcome = Outcome("retry" if end.retried else "failure", error_type=cause)
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
