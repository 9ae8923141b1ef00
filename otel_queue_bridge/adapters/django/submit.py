"""Submit: every task that is given to a backend.

`BaseTaskBackend.enqueue` is abstract, and its `aenqueue` calls the former in a thread.
"""

from __future__ import annotations

from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapters.django import reading

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder


class _Submission:
    """A task while it is being enqueued, as one backend may hand it on to another."""

    def __init__(self, function: Any, carrier: Any) -> None:
        self.function = function
        self.carrier = carrier


current: ContextVar[_Submission | None] = ContextVar(
    "otel_queue_bridge.django.submitting", default=None
)


def submit(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    task, outer = call.argument(0, "task"), current.get()
    kind = reading.home(call.instance)
    # What goes to RQ or Huey is a task of theirs, and recorded as such.
    if kind in reading.ELSEWHERE or (outer is not None and outer.function is task.func):
        return
    read = reading.task_of(task, call.argument(1, "args"), call.argument(2, "kwargs"))
    read.carrier = {}
    if kind == reading.DATABASE:
        reading.place(read)
    with recorder.submit(read) as operation:
        token = current.set(_Submission(task.func, read.carrier))
        yield
        with suppress(ValueError):  # a coroutine may be closed in another context
            current.reset(token)
        if call.error is None:
            operation.identify(str(call.result.id))
        operation.settle_by(call)


def store(call: Call, _: Recorder) -> Generator[None, None, None]:
    """Put the carrier beside the arguments, in what becomes the row's JSON."""
    yield
    submission = current.get()
    if submission is None or call.error is not None:
        return
    submission.function = None  # what is enqueued from now on, by a signal, is another task
    carrier, submission.carrier = submission.carrier, None  # as is a second row
    if carrier and isinstance(call.result, dict):
        call.result[reading.CARRIER] = carrier
