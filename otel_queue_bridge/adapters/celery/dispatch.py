"""Dispatch: from the request's creation to its hand-over to the pool.

The whole span is written when it ends. A task that waits in the worker for its ETA is not being
dispatched meanwhile, and a task that is never handed over was never dispatched.
"""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import CANCELLED, REJECTED, Call, Recorder, Task
from otel_queue_bridge.adapters.celery import plain
from otel_queue_bridge.adapters.celery.attempt import PoolAttempt
from otel_queue_bridge.adapters.celery.reading import queue, requested, server, transport

if TYPE_CHECKING:
    from collections.abc import Generator


def receive(call: Call, _: Recorder) -> Generator[None, None, None]:
    received = time.time_ns()
    yield
    call.instance.otel_received = received


def hand_over(call: Call, recorder: Recorder) -> None:
    # `BasePool.apply_async` gets the request only through its callbacks. It is still the place
    # to patch, because the solo pool runs the task inside this call.
    request = getattr(call.kwargs.get("accept_callback"), "__self__", None)
    if request is None or not hasattr(request, "request_dict"):
        plain.hand_over(call, recorder)
        return
    task = requested(request)
    operation = recorder.dispatch(task, start_time=start_time(request))
    operation.inject(request.request_dict, once=True)
    operation.end()
    attempt = PoolAttempt(request, task)
    request.otel_attempt = weakref.ref(attempt)  # the callbacks keep it; this avoids a cycle
    call.kwargs = call.kwargs | {
        "callback": recorder.advised(call.kwargs["callback"], attempt.finish),
        "error_callback": recorder.advised(call.kwargs["error_callback"], attempt.lose),
        "timeout_callback": recorder.advised(call.kwargs["timeout_callback"], attempt.time_out),
    }


def revoke(call: Call, recorder: Recorder) -> None:
    request = call.instance
    if not call.argument(1, "terminated"):  # else it was running, and the pool reports its end
        operation = recorder.dispatch(requested(request), start_time=start_time(request))
        operation.settle(CANCELLED)
        operation.end()


def reject(call: Call, recorder: Recorder) -> None:
    """Record a message that never becomes a request: it is unknown, invalid or undecodable."""
    message = next(argument for argument in call.args if hasattr(argument, "delivery_info"))
    headers = message.headers if isinstance(message.headers, dict) else {}
    body = call.args[0] if isinstance(call.args[0], dict) else {}
    facts = {**body, **headers}
    app = call.instance.app
    operation = recorder.dispatch(
        Task(
            str(facts.get("task") or "unknown"),
            queue(app, message.delivery_info or {}),
            id=facts.get("id"),
            carrier=facts,
            other_carriers=(facts.get("headers"),),
            server=server(app),
            transport=transport(app),
            worker=call.instance.hostname,
        )
    )
    operation.settle(REJECTED)
    operation.end()


def start_time(request: Any) -> int:
    received: int = getattr(request, "otel_received", None) or time.time_ns()
    if request.eta is None:
        return received
    return min(max(received, int(request.eta.timestamp() * 1e9)), time.time_ns())
