"""The control plane and its subworkers: gauges while it runs, and the last export.

In 0.3.0, where they have a `lifecycle`, no signal ends them (see docs/fastworker.md), so `stop`
exports all that they hold. In 0.1.1 the SDK itself does that at exit.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from otel_queue_bridge.adapter import Call, Reading, Recorder
from otel_queue_bridge.adapters.fastworker import carrier

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator


class Cancellable(Protocol):
    def cancel(self) -> None: ...


def start(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    recorder.watch_workers(_subworkers, call.instance)
    recorder.watch_depth(_queues, call.instance)
    yield
    recorder.close(call.instance)


def stop(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    # If not, this is a request to stop: `start` waits for running tasks and calls `stop` again.
    ending = call.instance.shutdown_event.is_set()
    yield
    for one in tuple(vars(call.instance).get("otel_open", ())) if ending else ():
        one.cancel()
    if hasattr(call.instance, "lifecycle"):
        recorder.flush(metrics=True)


@contextmanager
def cancelled_by_stop(worker: Any, one: Cancellable) -> Iterator[None]:
    """Let `stop` end a run or request that is cancelled, but that its event loop never resumes."""
    under_way: set[Cancellable] = vars(worker).setdefault("otel_open", set())
    under_way.add(one)
    try:
        yield
    finally:
        under_way.discard(one)


def _subworkers(control_plane: Any) -> list[Reading]:
    known = tuple(control_plane.subworkers.items())
    active = {subworker for subworker, one in known if one["status"] == "active"}
    under_way = tuple(vars(control_plane).get("otel_open", ()))
    # One that has answered is free, however long its answer takes to the client.
    busy = active & {
        getattr(one, "subworker", None) for one in under_way if not getattr(one, "answered", False)
    }
    return [Reading(len(active), busy=len(busy))]


def _queues(control_plane: Any) -> Iterable[Reading]:
    """Read which tasks wait in the control plane; docs/fastworker.md says where others do."""
    planned = getattr(control_plane, "_scheduled_heap", None)  # 0.1.1 has no ETA
    held = [item[2] for item in tuple(planned or ())]
    # A task that never arrived is the next run of a periodic task, not submitted yet.
    delayed = Counter(task.priority for task in held if carrier.arrived(task) is not None)
    for priority, queue in tuple(control_plane.task_queue.items()):
        waiting = tuple(queue)
        yield Reading(
            len(waiting),
            priority.value,
            priority.value,
            delayed=None if planned is None else delayed[priority],
            oldest=_age(waiting[0]) if waiting else 0.0,
        )


def _age(task: Any) -> float | None:
    """Return for how many seconds a task is here and due; None if it came before us."""
    arrived, eta = carrier.arrived(task), getattr(task, "eta", None)
    if arrived is None:
        return None
    ready = arrived / 1e9 if eta is None else max(arrived / 1e9, eta.timestamp())
    return max(0.0, time.time() - ready)
