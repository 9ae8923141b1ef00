"""Submit: every message that is given to a broker.

`Broker.enqueue` is abstract. Each broker's implementation is called by send, pipelines, groups,
callbacks and retries alike.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapters.dramatiq import attempt
from otel_queue_bridge.adapters.dramatiq.reading import CARRIER, DELAYED, carrier, task_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder

_submitting: ContextVar[object] = ContextVar("otel_queue_bridge.dramatiq.submitting", default=None)
"""The carrier of the message that is being enqueued, as a broker may pass it to another broker."""


def submit(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    message = call.argument(0, "message")
    if message.options.get(CARRIER) is _submitting.get() is not None:
        return
    written = dict(carrier(message))
    # We change a copy: the message may be sent again, or be part of a pipeline or a group.
    copied = message.copy(options={CARRIER: written})
    running = attempt.current.get()
    # This moves a message from the delay queue to its queue, which only a consumer thread does.
    handed_over = written.pop(DELAYED, None) is not None and running is None
    task, delay = task_of(call.instance, message), call.kwargs.get("delay")
    task.carrier = written
    task.retry = running is not None and running.retries(message)
    task.eta = None if delay is None else time.time() + delay / 1000
    with nullcontext() if handed_over else recorder.submit(task) as operation:
        _replace(call, copied)
        token = _submitting.set(written)
        yield
        _submitting.reset(token)
        if operation is not None:
            operation.settle_by(call)
        if call.error is None and running is not None and task.retry:
            running.enqueued_again = True


def _replace(call: Call, message: Any) -> None:
    if call.args:
        call.args = (message, *call.args[1:])
    else:
        call.kwargs = {**call.kwargs, "message": message}
