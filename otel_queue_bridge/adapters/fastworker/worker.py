"""The control plane and its subworkers: gauges while it runs, and the last export.

Those of 0.3.0, which alone have a `lifecycle`, end on no signal (see docs/fastworker.md): what they
hold is exported in `stop`. Elsewhere the SDK's own export at exit does that.
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
    # Else it is a request to stop: `start` waits for what runs, and comes here again.
    ending = call.instance.shutdown_event.is_set()
    yield
    for one in tuple(vars(call.instance).get("otel_open", ())) if ending else ():
        one.cancel()
    if hasattr(call.instance, "lifecycle"):
        recorder.flush(metrics=True)


@contextmanager
def cancelled_by_stop(worker: Any, one: Cancellable) -> Iterator[None]:
    """Have `stop` end what is cancelled and never gets to know: a control plane leaves no turn."""
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
    """Read what is due and not yet handed out; see docs/fastworker.md for where tasks wait."""
    queues = tuple(control_plane.task_queue.items())
    return [Reading(len(queue), priority.value, priority.value) for priority, queue in queues]
