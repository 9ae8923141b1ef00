"""Dispatch: from a task's arrival in the control plane until a subworker or itself takes it on.

A task that waits for its ETA is not being dispatched meanwhile.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import CANCELLED, REJECTED, RETRY, Call, Operation, Recorder, failed
from otel_queue_bridge.adapters.fastworker import carrier
from otel_queue_bridge.adapters.fastworker.reading import task_of
from otel_queue_bridge.adapters.fastworker.traffic import Traffic, carrying
from otel_queue_bridge.adapters.fastworker.worker import cancelled_by_stop

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from opentelemetry.util.types import AttributeValue


def _open(task: Any, control_plane: Any, recorder: Recorder, **where: AttributeValue) -> Operation:
    onward = carrier.hand_over(task)
    facts = task_of(task, control_plane)
    facts.attributes = {f"fastworker.dispatch.{name}": value for name, value in where.items()}
    began = carrier.arrived(task)
    if began is not None and facts.eta is not None:
        began = min(max(began, int(facts.eta * 1e9)), time.time_ns())
    operation = recorder.dispatch(facts, start_time=began)
    operation.inject(onward)
    return operation


def keep(task: Any, control_plane: Any, recorder: Recorder, *, known: bool) -> None:
    """Record that the control plane runs the task itself, or rejects it as unknown."""
    target = control_plane.worker_id
    operation = _open(task, control_plane, recorder, local=True, target=target)
    if not known:
        operation.settle(REJECTED)
    operation.end()


def send(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Record that the control plane sends the task on, and waits for its result."""
    task, subworker = call.argument(0, "task"), call.argument(1, "subworker_id")
    control_plane, began = call.instance, time.time()
    load = control_plane.subworkers[subworker]["load"]
    operation = _open(task, control_plane, recorder, local=False, target=subworker, load=load)
    sending = Traffic([carrier.latest(task)], task.id, operation, subworker)
    with carrying(sending), cancelled_by_stop(control_plane, sending):
        yield
    sending.close(None if call.error is None else failed(call.error))
    waiting = control_plane.task_queue[task.priority]
    put_back = bool(waiting) and waiting[0] is task  # FastWorker raises no error here
    if put_back:
        carrier.arrive(task)
    if not sending.sent:
        operation.settle(CANCELLED if call.error else RETRY)
    elif put_back and not sending.answered:  # a subworker that answered counted the attempt
        duration = time.time() - began
        recorder.attempted(task_of(task), RETRY, started=began, duration=duration)
    operation.end()


def cancel(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Record the dispatch of a task that is cancelled while it waits for its ETA or its turn."""
    control_plane, task_id = call.instance, call.argument(0, "task_id")
    before = [task for task in _waiting(control_plane) if task.id == task_id]
    yield
    left = {id(task) for task in _waiting(control_plane)}
    for task in before:
        # A task that never arrived is the next run of a periodic task, not submitted yet.
        if id(task) not in left and carrier.arrived(task) is not None:
            operation = _open(task, control_plane, recorder)
            operation.settle(CANCELLED)
            operation.end()


def _waiting(control_plane: Any) -> Iterator[Any]:
    for queue in control_plane.task_queue.values():
        yield from queue
    for item in control_plane._scheduled_heap:  # noqa: SLF001 - it has no public name
        yield item[2]
