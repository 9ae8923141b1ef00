"""What a run meant, from what Celery raised or kept."""

from __future__ import annotations

from typing import Any

from otel_queue_bridge.adapter import IGNORED, REJECTED, RETRY, SUCCESS, Call, Outcome, failed


def outcome(task: Any, call: Call) -> Outcome:
    if call.error is not None:
        return classified(task, call.error)
    info = call.result.info
    return SUCCESS if info is None else classified(task, info.retval)


def classified(task: Any, error: Any) -> Outcome:
    kind = type(error).__name__
    if kind == "Retry":
        cause = error.exc if isinstance(error.exc, BaseException) else None
        return Outcome("retry", cause, expected=isinstance(cause, task.throws or ()))
    if kind == "Ignore":
        return IGNORED
    if kind == "Reject":
        return RETRY if error.requeue else REJECTED
    return failed(error, expected=isinstance(error, task.throws or ()))
