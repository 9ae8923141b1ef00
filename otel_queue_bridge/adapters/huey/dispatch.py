"""Dispatch: from a worker taking a task to the run, or to what keeps it from being run.

A delayed task is taken by a worker at once, found not to be ready, and put into the schedule; when
its time has come it is taken again. Only then is it dispatched.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import CANCELLED, REJECTED, Task, failed
from otel_queue_bridge.adapters.huey.carrier import Message, keep, reading
from otel_queue_bridge.adapters.huey.execute import Run, current
from otel_queue_bridge.adapters.huey.reading import server, task_of, transport
from otel_queue_bridge.adapters.huey.submit import cause

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder


def receive(_: Call, recorder: Recorder) -> Generator[None, None, None]:
    token = cause.set(("receive", None))
    with recorder.polling():
        yield
    cause.reset(token)


def read(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    message = Message()
    token = reading.set(message)
    yield
    reading.reset(token)
    if call.error is None:
        keep(call.result, message.carrier or {})
    elif cause.get() is not None:  # it is lost: the queue, or the schedule, has it no more
        _reject(call.instance, message, recorder)


def _reject(huey: Any, message: Message, recorder: Recorder) -> None:
    name, task_id = (getattr(message.fields, field, None) for field in ("name", "id"))
    task = Task(
        name if isinstance(name, str) else "unknown",
        huey.name,
        id=task_id if isinstance(task_id, str) else None,
        carrier=message.carrier or {},
        server=server(huey.storage),
        transport=transport(huey.storage.__class__),
    )
    with recorder.dispatch(task) as operation:
        operation.settle(REJECTED)


def dispatch(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    huey, task = call.instance, call.argument(0, "task")
    # Huey is to decide by the same moment as we.
    moment = call.argument(1, "timestamp") or huey._get_timestamp()  # noqa: SLF001
    call.args, call.kwargs = (task, moment), {}
    if not huey.ready_to_run(task, moment):
        with recorder.polling():
            yield
        return
    run = current.get()  # in immediate mode, that of the submit
    if run is None or run.task is not task or run.execute is not None:
        run = Run(task)
    token = current.set(run)
    if huey.immediate:
        yield
        if (
            run.execute is None and call.error is None
        ):  # revoked or expired, with no dispatch that could tell
            recorder.attempted(task_of(huey, task), CANCELLED, started=time.time(), duration=None)
    else:
        with recorder.dispatch(task_of(huey, task)) as run.dispatch:
            yield
            # Nothing, if `_execute` has ended it; else the task was revoked, or has expired.
            run.dispatch.settle(CANCELLED if call.error is None else failed(call.error))
    current.reset(token)
