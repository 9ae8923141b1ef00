"""Execute: one run of a task, and what Huey signals of it.

`Huey._execute` neither returns nor raises what the task came to. Each task has a class with its
own `execute`, so that is no place to look either.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import CANCELLED, SUCCESS, Outcome, failed
from otel_queue_bridge.adapters.huey.reading import task_of
from otel_queue_bridge.adapters.huey.worker import crew

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Operation, Recorder

_SKIPPED = {"canceled", "locked", "rate-limited"}
"""What asks not to be run, or not now; nothing is wrong."""
_FAILED = {"error", "timeout"}


class Run:
    """One run of a task, from its dispatch on."""

    def __init__(self, task: Any) -> None:
        self.task = task
        self.dispatch: Operation | None = None
        self.execute: Operation | None = None
        self._outcome: Outcome | None = None

    def note(self, signal: str) -> None:
        if signal == "complete":
            self._outcome = SUCCESS
        elif signal in _SKIPPED:
            self._outcome = CANCELLED
        elif signal in _FAILED:
            error = sys.exc_info()[1]  # Huey signals while it handles it
            self._outcome = Outcome("failure") if error is None else failed(error)
        elif signal == "interrupted":
            self._outcome = Outcome("failure", error_type=signal)
        elif signal == "retrying":
            before, self._outcome = self._outcome, None
            self._outcome = Outcome("retry", before and before.error)

    def outcome(self, raised: BaseException | None) -> Outcome | None:
        """Return the outcome; None if Huey's signals came while we were off.

        An error that `_execute` itself has `raised` is of the storage.
        """
        outcome, self._outcome = self._outcome, None
        if raised is not None and (outcome is None or outcome.status == "retry"):
            return failed(raised)
        return outcome

    def interrupt(self) -> None:
        """End it from another thread: the process ends, and this run with it."""
        if self.execute is not None:
            self.execute.settle(Outcome("failure", error_type="interrupted"))
            self.execute.end()


current: ContextVar[Run | None] = ContextVar("otel_queue_bridge.huey.run", default=None)


def execute(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    huey, run = call.instance, current.get()
    if run is None:
        return
    described = task_of(huey, run.task)
    if run.dispatch is None:
        described.carrier = None  # it runs in the caller
    elif described.carrier is not None:
        run.dispatch.inject(described.carrier)
        run.dispatch.end()
    running = crew(huey, recorder).running
    with recorder.execute(described, measured=True) as run.execute:
        running.add(run)
        yield
        running.discard(run)
        outcome = run.outcome(call.error)
        if outcome is not None:
            run.execute.settle(outcome)


def note(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    run = current.get()
    if run is not None and call.argument(1, "task") is run.task:
        run.note(call.argument(0, "signal"))
    with recorder.not_polling():  # a receiver is the user's code
        yield
