"""One `Worker.run_job` while it lasts. A worker has many at once, each in an asyncio task."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import (
    CANCELLED,
    REJECTED,
    RETRY,
    SUCCESS,
    Arguments,
    Call,
    Outcome,
    Recorder,
    Task,
    failed,
)
from otel_queue_bridge.adapters.arq.reading import TRANSPORT, server

if TYPE_CHECKING:
    from otel_queue_bridge.adapter import Operation

UNKNOWN = "<unknown>"
"""What ARQ calls the function of a job that it cannot read."""


class Run:
    """What is known of one attempt; `run_job` neither returns nor raises how it ended."""

    def __init__(self, worker: Any, job_id: str, score: int) -> None:
        self.worker = worker
        self.job_id = job_id
        self.began = time.time_ns()
        self.score = score
        self.attempt: int | None = None
        self.kept: Any = None
        """What a retry has left for this attempt."""
        self.enqueued: object = None
        self.job: tuple[Any, ...] = ()
        """What ARQ has read: function, arguments, keyword arguments, and more."""
        self.carrier: dict[str, Any] = {}
        self.task = Task(UNKNOWN, worker.queue_name)
        self.dispatch: Operation | None = None
        self.execute: Operation | None = None
        self.entered = ExitStack()
        self.raised: BaseException | None = None
        """What the body has raised: `CancelledError` for a timeout, an abort and a shutdown."""
        self.aborted = False
        self.finished = False
        self.result: BaseException | None = None
        """The error that ARQ has written as the job's result."""

    def note_attempt(self, asked: object) -> None:
        """Note the number that the caller has asked for (`_job_try`), if it is the greater one."""
        if type(asked) is int and self.attempt is not None:
            self.attempt = max(asked, self.attempt)

    def open_dispatch(self, recorder: Recorder, carrier: dict[str, Any] | None) -> Operation:
        """Open it; user code around the body, `on_job_start` and the like, runs inside."""
        name = self.job[0] if self.job else None
        self.carrier = dict(carrier or {})
        self.task = Task(
            name if isinstance(name, str) else UNKNOWN,
            self.worker.queue_name,
            id=self.job_id,
            carrier=self.carrier,
            attempt=self.attempt,
            eta=self.score / 1000,
            server=server(self.worker.pool),
            transport=TRANSPORT,
            arguments=self._arguments if self.job else None,
        )
        self.dispatch = recorder.dispatch(self.task, start_time=self.began)
        self.entered.enter_context(self.dispatch)
        return self.dispatch

    def _arguments(self) -> Arguments:
        function, args, kwargs = self.job[:3]
        known = self.worker.functions.get(function)
        # Without its first argument, ARQ's `ctx`.
        return Arguments(known and partial(known.coroutine, None), args, kwargs)

    def outcome(self, *, finish: bool) -> Outcome:
        """Return the outcome of an attempt that ARQ is done with, or will repeat."""
        if not finish:
            return RETRY
        error = self.result or self.raised
        if not isinstance(error, asyncio.CancelledError):
            return SUCCESS if error is None else failed(error)
        if self.aborted or (self.result is not None and self.worker.retry_jobs):
            return CANCELLED  # with `retry_jobs`, ARQ writes this error of an abort alone
        # Without a result (`keep_result=0`), a shutdown with `retry_jobs=False` looks the same.
        return failed(self.result or asyncio.TimeoutError())

    def refusal(self) -> Outcome:
        """Return the outcome of a job whose body does not run."""
        if self.dispatch is None or isinstance(self.result, asyncio.CancelledError):
            return CANCELLED  # it has expired, or was aborted
        if self.task.name not in self.worker.functions:
            return REJECTED
        return Outcome("failure", self.result)

    def settle_unfinished(self, error: BaseException) -> None:
        """Settle an attempt that is not over for ARQ, which will run the job again."""
        operation, self.finished = self.execute or self.dispatch, False
        if operation is not None:
            stopped = isinstance(error, asyncio.CancelledError)
            operation.settle(RETRY if stopped else Outcome("retry", error))

    def end(self, error: BaseException | None) -> None:
        operation = self.execute or self.dispatch
        if operation is not None:
            if error is not None and not self.finished:  # a hook of the user's may have failed
                self.settle_unfinished(error)
            operation.end()
        self.entered.close()
        self.raised = self.result = None  # their tracebacks hold the task's arguments


current: ContextVar[Run | None] = ContextVar("otel_queue_bridge.arq.current", default=None)


def note_result(call: Call, _: Recorder) -> None:
    run, success = current.get(), call.argument(5, "success")
    if run is not None and not success:
        run.result = call.argument(6, "result")
