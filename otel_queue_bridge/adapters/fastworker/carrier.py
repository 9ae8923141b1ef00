"""The carrier: one key beside the fields of a serialized task.

`Task` drops keys that it does not know (pydantic's default), so a peer without us, at any hop,
loses the carrier and nothing else. A task object keeps it in its `__dict__`, as plain data, under
names that pydantic treats as private: it compares, prints, iterates and dumps tasks without them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import ATTEMPT, marked_attempt
from otel_queue_bridge.adapters.fastworker import traffic

if TYPE_CHECKING:
    from collections.abc import Generator, MutableMapping

    from otel_queue_bridge.adapter import Call, Recorder

KEY = "otel"
_SUBMITTED = "_otel_submitted"
_DISPATCHED = "_otel_dispatched"
_ARRIVED = "_otel_arrived"


def put(task: Any, carrier: MutableMapping[str, Any]) -> None:
    vars(task)[_SUBMITTED] = carrier


def is_put(task: Any) -> bool:
    return _SUBMITTED in vars(task)


def submitted(task: Any) -> MutableMapping[str, Any]:
    """Return the carrier that came with the task, which holds the submit."""
    found: MutableMapping[str, Any] = vars(task).get(_SUBMITTED, {})
    return found


def arrive(task: Any) -> None:
    vars(task)[_ARRIVED] = time.time_ns()


def arrived(task: Any) -> int | None:
    """Return when the task arrived here, or came back; in nanoseconds since the epoch."""
    found: int | None = vars(task).get(_ARRIVED)
    return found


def latest(task: Any) -> MutableMapping[str, Any]:
    """Return the carrier to send on: that of the dispatch, if there is one."""
    found: MutableMapping[str, Any] = vars(task).get(_DISPATCHED) or submitted(task)
    return found


def hand_over(task: Any) -> MutableMapping[str, Any]:
    """Return a copy of the submit to write a dispatch into; each further dispatch is an attempt."""
    attempted = attempt(task)
    again = _DISPATCHED in vars(task)
    onward = vars(task)[_DISPATCHED] = dict(submitted(task))
    if again and attempted is not None:
        onward[ATTEMPT] = str(attempted + 1)
    return onward


def attempt(task: Any) -> int | None:
    """Return how often the task has been sent by now; None if its client runs without us."""
    if not submitted(task):
        return None
    return marked_attempt(latest(task)) or 1


def write(call: Call, _: Recorder) -> Generator[None, None, None]:
    """Add the carrier to a task that is serialized for sending, but to no other dump of it."""
    sending, carrier = traffic.current.get(), latest(call.instance)
    if sending is None or not carrier:
        return
    yield
    call.result[KEY] = sending.write(carrier)
