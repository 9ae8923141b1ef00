"""Execute: one message in a worker thread, with all that the middleware does to it.

An async actor runs in another thread, but in a copy of this thread's context (Dramatiq makes it).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_queue_bridge.adapters.dramatiq.attempt import Run, current, listens
from otel_queue_bridge.adapters.dramatiq.dispatch import dispatched
from otel_queue_bridge.adapters.dramatiq.reading import bare, hide, task_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder


def execute(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    message, broker = call.argument(0, "message"), call.instance.broker
    hide(message)  # it may have been received before we were there
    task = task_of(broker, message)
    task.carrier = dispatched(broker, message, recorder)
    sent = bare(message)
    actor = broker.actors.get(sent.actor_name)
    throws = sent.options.get("throws") or (actor and actor.options.get("throws"))
    run, thread = Run(sent, throws), call.instance
    token, listening = current.set(run), listens.set(True)
    thread.otel_busy = True
    try:
        with recorder.execute(task, measured=True) as operation:
            yield
            operation.settle(run.outcome(call.error))
    finally:
        del thread.otel_busy
        listens.reset(listening)
        current.reset(token)
