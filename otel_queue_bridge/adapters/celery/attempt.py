"""One attempt in the pool, as the worker's main process sees it.

The main process counts the end of the attempt, and reports it if the child died.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import (
    CANCELLED,
    RETRY,
    SUCCESS,
    Call,
    Outcome,
    Recorder,
    Task,
    failed,
)
from otel_queue_bridge.adapters.celery.outcome import classified, interrupted

if TYPE_CHECKING:
    from collections.abc import Generator


class PoolAttempt:
    """One attempt in the pool: its end is counted once, whichever callbacks report it."""

    def __init__(self, request: Any, task: Task) -> None:
        self._request = request
        self._task = task
        self._over = False

    def finish(self, call: Call, recorder: Recorder) -> None:
        """Count what the child reports: whether it failed, the value, and the run time."""
        if not isinstance(call.args[0], tuple):  # SystemExit in a pool that has no children
            error = cause(call.args[0])
            self._count(recorder, failed(error.__context__ or error), None)
            return
        is_failure, value, runtime = call.args[0]
        if is_failure and isinstance(cause(value), SystemExit):
            return  # billiard 4.3 reports this twice: the loss of the child comes next
        if is_failure:
            outcome = classified(self._request.task, cause(value))
        else:  # False alone is a green pool's report of a terminated task; Celery's own have 0
            outcome = CANCELLED if is_failure is False and value is runtime is None else SUCCESS
        self._count(recorder, outcome, runtime or None)

    def time_out(self, _: Call, recorder: Recorder) -> None:
        """Count a time-out in gevent's pool, which calls nothing else.

        gevent's pool calls this while it handles the exception. Prefork reports a loss as well.
        """
        error = sys.exc_info()[1]
        if error is not None:
            self._count(recorder, interrupted(self._request.task, error), None)

    def lose(self, call: Call, recorder: Recorder) -> Generator[None, None, None]:
        """Report an attempt whose child could not, because it was killed or ended itself.

        What Celery does about it, such as error callbacks, belongs to the attempt.
        """
        if self._over:
            return
        outcome = self._loss(cause(call.args[0]))
        started = self._request.time_start
        operation = recorder.execute(self._task, start_time=int(started * 1e9) if started else None)
        operation.settle(outcome)
        operation.inject(self._request.request_dict)  # a retry may be submitted next
        self._count(recorder, outcome, None)
        with operation:
            yield

    def give_back(self, recorder: Recorder) -> None:
        """Count a message that will be delivered again, because it was not acknowledged."""
        if not self._over:
            self._over = True
            recorder.attempted(self._task, RETRY, started=time.time(), duration=None)

    def _loss(self, error: Any) -> Outcome:
        request, task = self._request, self._request.task
        kind = type(error).__name__
        if kind == "Terminated":
            # If the connection was lost, Celery cancelled it and it is delivered again. If not,
            # it was revoked.
            return RETRY if request._already_cancelled else CANCELLED  # noqa: SLF001
        lost = kind in ("WorkerLostError", "SystemExit", "KeyboardInterrupt")
        if lost and getattr(task, "retry_on_worker_lost", False):  # since Celery 5.7
            retries = request.request_dict.get("retries") or 0
            final = task.max_retries is not None and retries >= task.max_retries
            return classified(task, error) if final else Outcome("retry", error)
        return interrupted(task, error)

    def _count(self, recorder: Recorder, outcome: Outcome, runtime: float | None) -> None:
        if self._over:
            return
        self._over = True
        now = time.time()
        started = self._request.time_start or now
        recorder.attempted(
            self._task, outcome, started=started, duration=runtime or max(0.0, now - started)
        )


def discard(call: Call, recorder: Recorder) -> None:
    # When the worker stops or loses its broker, it discards each task that no child is known to
    # have begun (`AsynPool.flush`). A child may still run such a task; nobody learns of that.
    accepted = call.instance._accept_callback  # noqa: SLF001
    reference = getattr(getattr(accepted, "__self__", accepted), "otel_attempt", None)
    attempt = reference and reference()
    if attempt:
        attempt.give_back(recorder)


def cause(info: Any) -> Any:
    error = info.exception
    return (
        getattr(error, "exc", error) if type(error).__name__ == "ExceptionWithTraceback" else error
    )
