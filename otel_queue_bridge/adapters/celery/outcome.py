"""Read the outcome of a run from what Celery raised or kept."""

from __future__ import annotations

from typing import Any

from otel_queue_bridge.adapter import (
    CANCELLED,
    IGNORED,
    REJECTED,
    RETRY,
    SUCCESS,
    Call,
    Outcome,
    Status,
)


def outcome(task: Any, call: Call) -> Outcome:
    if call.error is not None:
        return interrupted(task, call.error)
    info = call.result.info
    return SUCCESS if info is None else classified(task, info.retval)


def interrupted(task: Any, error: Any) -> Outcome:
    """Return the outcome of a run that was stopped from outside, or that called for its exit."""
    kind = type(error).__name__
    if kind == "GreenletExit":  # the green pools terminate a task with it
        return CANCELLED
    if kind in ("TimeLimitExceeded", "Timeout"):  # Timeout is gevent's
        again = task.acks_late and not task.acks_on_timeout
    else:  # Celery treats an exit like the loss of the child
        lost = kind in ("WorkerLostError", "SystemExit", "KeyboardInterrupt")
        again = lost and task.acks_late and task.reject_on_worker_lost
    return Outcome("retry", error) if again else classified(task, error)


def classified(task: Any, error: Any) -> Outcome:
    kind = type(error).__name__
    if kind == "Retry":
        return (
            RETRY
            if not isinstance(error.exc, BaseException)
            else _because("retry", error.exc, task)
        )
    if kind == "Ignore":
        return IGNORED
    if kind == "Reject":
        # Celery does not requeue a message that it acknowledged before the run.
        return RETRY if error.requeue and task.acks_late else REJECTED
    return failure(error, task)


def failure(error: Any, task: Any) -> Outcome:
    return _because("failure", error, task)


def _because(status: Status, error: Any, task: Any) -> Outcome:
    throws = task.throws or ()
    if type(error).__name__ != "UnpickleableExceptionWrapper":
        return Outcome(status, error, isinstance(error, throws))
    # This stands in for an exception that cannot be pickled.
    module, name = error.exc_module, error.exc_cls_name
    expected = any((kind.__module__, kind.__name__) == (module, name) for kind in throws)
    return Outcome(status, error, expected, name if module == "builtins" else f"{module}.{name}")
