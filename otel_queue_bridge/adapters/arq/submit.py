"""Submit: every enqueue, by a caller or by a worker's cron; a retry is in `execute`."""

from __future__ import annotations

import time
from contextvars import ContextVar
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import CANCELLED, Arguments, Call, Recorder, Task
from otel_queue_bridge.adapters.arq.carrier import is_taken, sent
from otel_queue_bridge.adapters.arq.reading import TRANSPORT, server

if TYPE_CHECKING:
    from collections.abc import Generator

_by_cron: ContextVar[bool] = ContextVar("otel_queue_bridge.arq.by_cron", default=False)

_OWN = ("_job_id", "_queue_name", "_defer_until", "_defer_by", "_expires", "_job_try")


def submit(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    name, by_cron = call.argument(0, "function"), _by_cron.get()
    carrier: dict[str, Any] = {}
    task = Task(
        name,
        call.kwargs.get("_queue_name") or call.instance.default_queue_name,
        id=call.kwargs.get("_job_id"),
        carrier=carrier,
        attempt=call.kwargs.get("_job_try") or 1,
        retry=False,  # with `_job_try`, too, it is another job
        eta=_eta(call.kwargs.get("_defer_until"), call.kwargs.get("_defer_by")),
        schedule=name if by_cron else None,
        server=server(call.instance),
        transport=TRANSPORT,
        arguments=lambda: _arguments(call),
    )
    with recorder.submit(task) as operation:
        token = sent.set(carrier if is_taken(call.instance) else None)
        yield
        sent.reset(token)
        if call.error is not None or call.result is not None:
            operation.settle_by(call)
            if task.id is None and call.error is None:
                operation.identify(call.result.job_id)
        elif by_cron:  # each worker tries, and one of them was first
            operation.disown()
        else:  # there is a job of this id already
            operation.settle(CANCELLED)


def _eta(until: Any, by: Any) -> float | None:
    if until is not None:
        return float(until.timestamp())
    if not by:
        return None
    return time.time() + (by.total_seconds() if isinstance(by, timedelta) else by)


def _arguments(call: Call) -> Arguments:
    # A caller has only the name of the function.
    kwargs = {key: value for key, value in call.kwargs.items() if key not in (*_OWN, "function")}
    return Arguments(None, call.args[1:], kwargs)


def run_cron(_: Call, __: Recorder) -> Generator[None, None, None]:
    token = _by_cron.set(True)
    yield
    _by_cron.reset(token)
