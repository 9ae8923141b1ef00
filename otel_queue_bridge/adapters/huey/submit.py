"""Submit: every task that is given to the queue, distinguished by its cause.

A caller's tasks pass through `Huey.enqueue`. So do the next steps of pipelines, callbacks, retries,
periodic tasks, and delayed tasks whose time has come. A retry with a delay passes through
`Huey.add_schedule` alone.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal

from otel_queue_bridge.adapter import ATTEMPT, Outcome
from otel_queue_bridge.adapters.huey.carrier import carrier, keep
from otel_queue_bridge.adapters.huey.execute import Run, current
from otel_queue_bridge.adapters.huey.reading import task_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder

Cause = Literal["retry", "promotion", "schedule", "receive"]

cause: ContextVar[tuple[Cause, Any] | None] = ContextVar(
    "otel_queue_bridge.huey.cause", default=None
)
"""What Huey itself is doing here; for a retry, with which task."""


def submit(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    task = call.argument(0, "task")
    if not isinstance(task, sys.modules["huey.api"].Task):
        return  # a group or a chord: its members come one by one
    why, subject = cause.get() or (None, None)
    token = cause.set(None)  # what runs in here, such as a signal's receiver, may submit, too
    if why == "promotion":
        with recorder.polling():
            yield  # it has been submitted before, and keeps that carrier
    else:
        again = why == "retry" and subject is task
        schedule = task.name if why == "schedule" else None
        yield from _submit(call, recorder, task, again=again, schedule=schedule)
    cause.reset(token)


def submit_later(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    task, (why, subject) = call.argument(0, "task"), cause.get() or (None, None)
    if why == "retry" and subject is task:
        yield from _submit(call, recorder, task, again=True)


def _submit(
    call: Call, recorder: Recorder, task: Any, *, again: bool, schedule: str | None = None
) -> Generator[None, None, None]:
    huey, held, written = call.instance, carrier(task), {}
    described = task_of(huey, task)
    number = (described.attempt or 1) + 1 if again else 1
    if again:
        written = {**held, ATTEMPT: str(number)}
    described.attempt, described.schedule = number, schedule
    described.carrier = None if huey.immediate else written
    here = Run(task)
    token = current.set(here if huey.immediate else current.get())
    with recorder.submit(described) as operation:
        keep(task, written)
        yield
        keep(task, held)
        if here.execute is None:
            operation.settle_by(call)
        else:  # it has run, whatever was raised by that
            operation.settle(Outcome("success", call.error))
    current.reset(token)


def retry(call: Call, _: Recorder) -> Generator[None, None, None]:
    yield from _because("retry", call.argument(0, "task"))


def promote(_: Call, recorder: Recorder) -> Generator[None, None, None]:
    with recorder.polling():
        yield from _because("promotion")


def repeat(_: Call, recorder: Recorder) -> Generator[None, None, None]:
    with recorder.not_polling():
        yield from _because("schedule")


def _because(why: Cause, subject: Any = None) -> Generator[None, None, None]:
    token = cause.set((why, subject))
    yield
    cause.reset(token)
