"""Submit: every way into a queue, told apart by what led there.

`enqueue_job` is where a caller's jobs pass, `_enqueue_job` also where RQ puts back a job that is
to run again or whose time has come, `schedule_job` both with a time in the future.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from otel_queue_bridge.adapter import ATTEMPT, Call, Recorder
from otel_queue_bridge.adapters.rq import ending
from otel_queue_bridge.adapters.rq.carrier import NAME, attempt, carrier
from otel_queue_bridge.adapters.rq.reading import readable, task_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Operation

Cause = Literal["submit", "retry", "promotion", "many"]

within: ContextVar[tuple[Cause | None, Any, int]] = ContextVar(
    "otel_queue_bridge.rq.within", default=(None, None, 1)
)
"""What goes on in this context, what it is about, and which attempt is next."""


def submit(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    job = call.argument(0, "job")
    cause, subject, number = within.get()
    if cause == "submit" and subject is job:
        return
    # Whatever comes inside is about another job: one that runs here and now enqueues its own.
    token = within.set(("submit", job, 1))
    many = subject if cause == "many" else None
    if cause == "promotion" or (many is not None and job in many.deferred):
        yield  # its submit was long ago, or just now; it keeps that carrier
    else:
        again, end = cause == "retry" and subject is job, ending.of(job)
        if again and end is not None:
            end.retried = True
        yield from _submit(call, recorder, job, number if again else 1, many)
    within.reset(token)


class _Many:
    """What one `enqueue_many` submits: one pipeline carries it all, and fails for all or none."""

    def __init__(self) -> None:
        self.deferred: list[Any] = []
        self.operations: list[Operation] = []


def _submit(
    call: Call, recorder: Recorder, job: Any, number: int, many: _Many | None = None
) -> Generator[None, None, None]:
    queue = call.instance
    task = task_of(job, queue.name, queue.connection)
    written = dict(carrier(job))
    written.pop(ATTEMPT, None)
    if number > 1:
        written[ATTEMPT] = str(number)
    if not readable(job):
        written[NAME] = task.name
    task.carrier, task.attempt = written, number
    when = call.argument(1, "datetime")
    task.eta = when.timestamp() if hasattr(when, "timestamp") else None
    operation = recorder.submit(task)
    job.otel = written
    if many is not None and queue.is_async:
        many.operations.append(operation)
        yield
        return
    with operation:
        yield
        operation.settle_by(call)


def enqueue_many(call: Call, _: Recorder) -> Generator[None, None, None]:
    many = _Many()
    token = within.set(("many", many, 1))
    yield
    within.reset(token)
    for operation in many.operations:
        operation.settle_by(call)
        operation.end()


def defer(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Submit what `enqueue_many` saves and leaves to wait for other jobs."""
    cause, many, _ = within.get()
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
    """Submit in here what the job itself asked to try again, by RQ 2.1 and later."""
    job = call.argument(0, "job")
    yield from _retry(job)
    end = ending.of(job)
    if end is not None:
        end.exhausted = not end.retried


def _retry(job: Any) -> Generator[None, None, None]:
    # The number is read before `Job._handle_retry_result` counts it.
    token = within.set(("retry", job, attempt(job) + 1))
    yield
    within.reset(token)


def promote(_: Call, __: Recorder) -> Generator[None, None, None]:
    token = within.set(("promotion", None, 1))
    yield
    within.reset(token)
