"""Submit: every way into a queue, distinguished by its cause.

A caller's jobs pass through `enqueue_job`. They also pass through `_enqueue_job`, as do jobs that
RQ itself enqueues: to run again, or because their time has come. Jobs of both kinds that have a
time in the future pass through `schedule_job`.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from otel_queue_bridge.adapter import ATTEMPT, SUBMITTED, Call, Recorder
from otel_queue_bridge.adapters.rq.carrier import (
    FIELD,
    NAME,
    SET_UP,
    carrier,
    next_attempt,
    set_up,
)
from otel_queue_bridge.adapters.rq.ending import Ending
from otel_queue_bridge.adapters.rq.reading import task_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Operation, Task

Cause = Literal["submit", "retry", "promotion", "many"]

within: ContextVar[tuple[Cause, Any, int] | None] = ContextVar(
    "otel_queue_bridge.rq.within", default=None
)
"""What this context is doing, with which job or jobs, and which attempt is next."""
_NOTHING: tuple[Cause | None, Any, int] = (None, None, 1)

_cron_job: ContextVar[str | None] = ContextVar("otel_queue_bridge.rq.cron_job", default=None)
"""Name of the cron job that is being enqueued."""


def submit(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    job = call.argument(0, "job")
    cause, subject, number = within.get() or _NOTHING
    if cause == "submit" and subject is job:
        return
    # Any submit inside this one is for another job: a job that runs in here may enqueue some.
    token = within.set(("submit", job, 1))
    many = subject if cause == "many" else None
    if cause == "promotion" or (many is not None and job in many.deferred):
        yield  # it has been submitted before, and keeps that carrier
    else:
        again, ending = cause == "retry" and subject is job, Ending.of(job)
        if again and ending is not None:
            ending.retried = True
        yield from _submit(call, recorder, job, number if again else 1, many)
    within.reset(token)


class _Many:
    """The submits of one `enqueue_many`: one pipeline sends them all, or fails for all of them."""

    def __init__(self) -> None:
        self.deferred: list[Any] = []
        self.operations: list[Operation] = []


def _submit(
    call: Call, recorder: Recorder, job: Any, number: int, many: _Many | None = None
) -> Generator[None, None, None]:
    queue = call.instance
    task = task_of(job, queue.name, queue.connection)
    held = carrier(job)
    written = dict(held)
    written.pop(ATTEMPT, None)
    if number > 1:
        written[ATTEMPT] = str(number)
    elif SUBMITTED in held:  # a schedule or a person enqueues it once more
        task.rerun_of = written[SET_UP] = set_up(held)
    written[NAME] = task.name
    task.carrier, task.attempt = written, number
    task.schedule = _cron_job.get()
    if task.schedule is None and getattr(job, "repeats_left", None) is not None:
        task.schedule = task.name  # a `Repeat` has no name
    when = call.argument(1, "datetime")
    task.eta = when.timestamp() if hasattr(when, "timestamp") else None
    operation = recorder.submit(task)
    job.otel = written
    if many is not None and queue.is_async:
        many.operations.append(operation)
        yield
        _identify(operation, task, job)
        return
    with operation:
        yield
        _identify(operation, task, job)
        operation.settle_by(call)


def _identify(operation: Operation, task: Task, job: Any) -> None:
    if task.id is None and job._id is not None:  # noqa: SLF001 - `Job.id` would make one
        operation.identify(job._id)  # noqa: SLF001


def store(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Keep the carrier where RQ keeps the job; of one that nobody has enqueued, its maker's."""
    job = call.instance
    if "otel" not in vars(job) and job.enqueued_at is None:
        task = task_of(job, job.origin, job.connection)
        recorder.store(task)
        job.otel = task.carrier
    yield
    held = carrier(job)
    if held and call.result is not None:
        call.result[FIELD] = json.dumps(held)


def enqueue_many(call: Call, _: Recorder) -> Generator[None, None, None]:
    many = _Many()
    token = within.set(("many", many, 1))
    yield
    within.reset(token)
    for operation in many.operations:
        operation.settle_by(call)
        operation.end()


def defer(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Submit a job that `enqueue_many` saves but does not enqueue: it waits for other jobs."""
    cause, many, _ = within.get() or _NOTHING
    if cause != "many":
        return
    yield
    job = call.result
    if job is not None and job.get_status(refresh=False) == "deferred":
        for _ in _submit(call, recorder, job, 1, many):
            many.deferred.append(job)


def retry(call: Call, _: Recorder) -> Generator[None, None, None]:
    yield from _retry(call.instance)


def retry_returned(call: Call, _: Recorder) -> Generator[None, None, None]:
    """Submit the retry that a job asked for by returning `Retry` (RQ 2.1 and later)."""
    job = call.argument(0, "job")
    yield from _retry(job)
    ending = Ending.of(job)
    if ending is not None:
        ending.exhausted = not ending.retried


def _retry(job: Any) -> Generator[None, None, None]:
    # This reads the number before `Job._handle_retry_result` increments it.
    token = within.set(("retry", job, next_attempt(job) + 1))
    yield
    within.reset(token)


def cron(call: Call, _: Recorder) -> Generator[None, None, None]:
    cron_job = call.instance
    # RQ before 3.0 has no names for them; later the function's is the default.
    token = _cron_job.set(str(getattr(cron_job, "name", None) or cron_job.func_name))
    yield
    _cron_job.reset(token)


def promote(_: Call, __: Recorder) -> Generator[None, None, None]:
    token = within.set(("promotion", None, 1))
    yield
    within.reset(token)
