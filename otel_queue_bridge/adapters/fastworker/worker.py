"""The control plane and its subworkers: gauges while it runs, and the last export.

In 0.3.0, where they have a `lifecycle`, no signal ends them (see docs/fastworker.md), so `stop`
exports all that they hold. In 0.1.1 the SDK itself does that at exit.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from otel_queue_bridge.adapter import Call, Reading, Recorder

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator


class Cancellable(Protocol):
    def cancel(self) -> None: ...


def start(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    recorder.watch_workers(_subworkers, call.instance)
    recorder.watch_depth(_depths, call.instance)
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
    known = tuple(control_plane.subworkers.values())
    return [Reading(sum(one["status"] == "active" for one in known))]


def _depths(control_plane: Any) -> Iterable[Reading]:
    """Read which tasks are due and not handed out; docs/fastworker.md says where tasks wait."""
    queues = tuple(control_plane.task_queue.items())
    return [Reading(len(queue), priority.value, priority.value) for priority, queue in queues]
