"""celery-batches: one run for many tasks. Names cited are those of celery-batches 0.11.

The child counts how a batch ends, through the relay: `apply_batches_task` keeps the body's error
to itself, and the main process gets None in either case.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

from otel_queue_bridge.adapter import SUCCESS, Call, Recorder
from otel_queue_bridge.adapters.celery.dispatch import start_time
from otel_queue_bridge.adapters.celery.execute import in_pool_child
from otel_queue_bridge.adapters.celery.outcome import failure
from otel_queue_bridge.adapters.celery.reading import batch_of, requested, task_of

if TYPE_CHECKING:
    from collections.abc import Generator

_error: ContextVar[BaseException | None] = ContextVar("_error", default=None)


def flush(call: Call, recorder: Recorder) -> None:
    # The carriers keep the submits: to them the one execute is linked.
    for request in call.argument(0, "requests"):
        recorder.dispatch(requested(request), start_time=start_time(request)).end()


def execute(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    task, (requests,) = call.argument(0, "task"), call.argument(1, "args")
    batch = batch_of(
        [task_of(task.app, one.request_dict["task"], one.id, one.request_dict) for one in requests]
    )
    if in_pool_child() and not recorder.parent_counts():
        for one in batch.batch:
            recorder.dispatched(one)
    recorder.patch(task, "run", _note)
    with recorder.execute(batch, measured=True) as operation:
        token = _error.set(None)
        yield
        error = _error.get() or call.error
        _error.reset(token)
        if call.error is not None and in_pool_child():
            operation.disown()  # the parent hears of this one, and reports it
        else:
            operation.settle(SUCCESS if error is None else failure(error, task))


def _note(call: Call, _: Recorder) -> Generator[None, None, None]:
    yield
    _error.set(call.error)
