"""Dispatch: from the consumer taking a message to a worker thread starting on it.

The whole span is written when it ends. A message that waits for its ETA is not being dispatched:
it goes back to its queue first, and is taken again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import REJECTED, RETRY, Call, Outcome, Recorder
from otel_queue_bridge.adapters.dramatiq.reading import (
    CARRIER,
    DELAYED,
    bare,
    carrier,
    hide,
    show,
    task_of,
)

if TYPE_CHECKING:
    from collections.abc import Generator


def decode(call: Call, _: Recorder) -> Generator[None, None, None]:
    yield
    if call.error is None:
        hide(call.result)


def receive(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    message = call.argument(0, "message")
    hide(message)  # a broker of the user's may not use `Message.decode`
    if bare(message).options.get("eta") is not None:
        yield
        # The copy that goes to the message's queue is made from these options.
        message.options[CARRIER] = {**carrier(message), DELAYED: "1"}
        return
    message.otel_received = time.time_ns()
    yield
    if message.failed:  # no thread can have worked on it yet: there is no such actor
        dispatched(call.instance.broker, message, recorder, REJECTED)


def hand_back(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Write the dispatches of messages that a stopping worker took and did not start on."""
    messages = list(call.argument(0, "messages"))
    call.args, call.kwargs = (messages,), {}
    for message in messages:
        show(message)
    yield  # whatever fails now, the broker has them: what we were given could be read once only
    for message in messages:
        dispatched(call.instance.broker, message, recorder, RETRY)


def dispatched(
    broker: Any, message: Any, recorder: Recorder, outcome: Outcome | None = None
) -> dict[str, Any]:
    """Write the dispatch, if that has not been done; return the carrier for what follows it."""
    written = dict(carrier(message))
    received = vars(message).pop("otel_received", None)
    if received is not None:
        task = task_of(broker, message)
        operation = recorder.dispatch(task, start_time=received)
        if outcome is not None:
            operation.settle(outcome)
        operation.inject(written)
        operation.end()
    return written
