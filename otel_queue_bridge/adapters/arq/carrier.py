"""The carrier: one more key of the job's dictionary, beside those that ARQ reads.

ARQ does not submit a retry: the job stays where it is, and its data is not written again. So what
a retry carries has a key beside ARQ's count of attempts, and goes there and back within the
transactions in which ARQ itself asks for that count, or finishes an attempt.
"""

from __future__ import annotations

import json
import pickle
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from otel_queue_bridge.adapter import Call, Recorder

KEY = "otel"
ENQUEUED = "otel-enqueued"
"""In a retry's carrier: ARQ's time of the enqueue. A later job may have the same id."""
_LIFETIME = 88_400_000
"""In milliseconds, that of ARQ's count of attempts (`Worker.run_job`)."""

sent: ContextVar[dict[str, Any] | None] = ContextVar("otel_queue_bridge.arq.sent", default=None)
"""The carrier of the job that is being enqueued."""

joining: ContextVar[Callable[[Call, Recorder], Generator[None, None, None]] | None] = ContextVar(
    "otel_queue_bridge.arq.joining", default=None
)
"""What we have to add to the next transaction of this asyncio task."""


def serialize(call: Call, _: Recorder) -> None:
    carrier = sent.get()
    dumps = call.kwargs.get("serializer") or pickle.dumps

    def serializer(job: dict[str, Any]) -> bytes:
        try:
            return dumps({**job, KEY: carrier})
        except Exception:  # noqa: BLE001 - the user's own may take ARQ's keys only
            return dumps(job)

    call.kwargs = {**call.kwargs, "serializer": serializer}


def carried(job: object) -> dict[str, Any] | None:
    """Return the carrier in what a deserializer has returned; None if there is none."""
    found = dict.get(job, KEY) if isinstance(job, dict) else None
    return found if isinstance(found, dict) else None


def join(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    part = joining.get()
    joining.set(None)
    if part is not None:
        yield from part(call, recorder)


def key_of(job_id: str) -> str:
    # It begins like ARQ's own, so that a user of Redis with rights to that has rights to this.
    return f"arq:retry:{job_id}:{KEY}"


def kept(found: Any, enqueued: object = None) -> dict[str, Any] | None:
    """Return the carrier that a retry has left, if it was one of the job that was enqueued then."""
    try:
        carrier = json.loads(found)
    except (TypeError, ValueError):
        return None
    fits = isinstance(carrier, dict) and enqueued in (None, carrier.pop(ENQUEUED, None))
    return carrier if fits else None


def keep(
    job_id: str, carrier: dict[str, Any], enqueued: object
) -> Callable[[Call, Recorder], Generator[None, None, None]]:
    texts = {key: value for key, value in carrier.items() if isinstance(value, str)}  # and no junk
    written = json.dumps({**texts, ENQUEUED: enqueued})

    def part(call: Call, _: Recorder) -> Generator[None, None, None]:
        call.instance.psetex(key_of(job_id), _LIFETIME, written)
        yield

    return part


def forget(job_id: str) -> Callable[[Call, Recorder], Generator[None, None, None]]:
    def part(call: Call, _: Recorder) -> Generator[None, None, None]:
        call.instance.delete(key_of(job_id))
        yield

    return part
