"""Submit: every message that is given to a broker.

`Broker.enqueue` is abstract. Each broker's implementation is called by send, pipelines, groups,
callbacks and retries alike.
"""

from __future__ import annotations

import inspect
import time
from contextvars import ContextVar
from dataclasses import is_dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import CANCELLED
from otel_queue_bridge.adapters.dramatiq import attempt
from otel_queue_bridge.adapters.dramatiq.reading import CARRIER, DELAYED, carrier, task_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder


class _Submission:
    """A message while it is being enqueued, as one broker may pass it to another."""

    def __init__(self, written: dict[str, Any], *, signalled: bool) -> None:
        self.carrier = written
        self.signalled = signalled


_current: ContextVar[_Submission | None] = ContextVar(
    "otel_queue_bridge.dramatiq.submitting", default=None
)


def submit(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    message, outer = call.argument(0, "message"), _current.get()
    if outer is not None and message.options.get(CARRIER) is outer.carrier:
        return
    written = dict(carrier(message))
    # We change a copy: the message may be sent again, or be part of a pipeline or a group.
    copied = _copy(message, **{CARRIER: written})
    running = attempt.current.get()
    # This moves a message from the delay queue to its queue, which only a consumer thread does.
    handed_over = written.pop(DELAYED, None) is not None and running is None
    task, delay = task_of(call.instance, message), call.kwargs.get("delay")
    task.carrier = written
    task.retry = running is not None and running.retries(message)
    task.eta = None if delay is None else time.time() + delay / 1000
    may_drop = _may_drop(call.instance.__class__)
    submission = _Submission(written, signalled=not may_drop)
    operation = None if handed_over else recorder.submit(task)
    with operation or recorder.polling():
        _replace(call, copied)
        token = _current.set(submission)
        listening = attempt.listens.set(True) if may_drop else None
        yield
        if listening is not None:
            attempt.listens.reset(listening)
        _current.reset(token)
        dropped = call.error is None and not submission.signalled
        if operation is not None:
            operation.settle(CANCELLED) if dropped else operation.settle_by(call)
        if call.error is None and running is not None and task.retry and not dropped:
            running.enqueued_again = True
        _give_back(call, copied, message)


def note_signal(call: Call, _: Recorder) -> None:
    signal = call.argument(0, "signal")
    if signal == "skip_message":
        attempt.note_skip()
    elif signal == "enqueue":
        submission = _current.get()
        if submission is not None:
            submission.signalled = True


@lru_cache(100)
def _may_drop(kind: type) -> bool:
    """Tell whether a broker may drop a message without an error, and lets us see that it did.

    Such a broker emits `after_enqueue` for the messages that it keeps, itself or by the broker
    that it calls: then its `enqueue` has this word in it. Dramatiq's brokers drop nothing.
    """
    owner = next(one for one in kind.__mro__ if "enqueue" in vars(one))
    code = getattr(inspect.unwrap(vars(owner)["enqueue"]), "__code__", None)
    signals = code is not None and "enqueue" in code.co_names + code.co_consts
    return signals and not owner.__module__.startswith("dramatiq.brokers.")


def _copy(message: Any, **options: Any) -> Any:
    """Return a copy of the message that has these options, too."""
    kind = type(message)
    if kind.__module__ != "dramatiq.message" or not is_dataclass(kind):
        return message.copy(options=options)  # a proxy, or a class of the user's
    # `Message.copy` (Dramatiq 2.2) asks each field for its default: it takes ten times as long.
    copied = object.__new__(kind)
    vars(copied).update(vars(message), options={**message.options, **options})
    return copied


def _replace(call: Call, message: Any) -> None:
    if call.args:
        call.args = (message, *call.args[1:])
    else:
        call.kwargs = {**call.kwargs, "message": message}


def _give_back(call: Call, copied: Any, message: Any) -> None:
    """Return to the caller what it would have without us: its own message, without the carrier."""
    if call.result is copied:
        call.result = message
    elif isinstance(getattr(call.result, "options", None), dict) and CARRIER in call.result.options:
        call.result = _copy(call.result)  # the broker may have kept that one
        del call.result.options[CARRIER]
    # What middleware has written into the options, or taken out.
    for key in message.options.keys() - copied.options.keys():
        del message.options[key]
    message.options.update({key: value for key, value in copied.options.items() if key != CARRIER})
