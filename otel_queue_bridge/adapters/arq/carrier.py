"""The carrier: one more key of the job's dictionary, beside those that ARQ reads.

ARQ does not submit a retry: the job stays where it is, and its data is not written again. So what
a retry carries has a key beside ARQ's count of attempts, and goes there and back within the
transactions in which ARQ itself asks for that count, or finishes an attempt.
"""

from __future__ import annotations

import json
import pickle
from contextlib import nullcontext, suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

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


class Joining(NamedTuple):
    """A command for the transaction of ARQ's that names a key; what the user executes has none."""

    beside: str
    command: tuple[object, ...]
    found: Callable[[Any, list[Any]], None] | None = None
    """Called with the answer, and those that ARQ gets."""

    def belongs_to(self, pipeline: Any) -> bool:
        return any(self.beside in arguments for arguments, _ in pipeline.command_stack)


joining: ContextVar[Joining | None] = ContextVar("otel_queue_bridge.arq.joining", default=None)
"""What we have to add to a transaction of this asyncio task."""


def serialize(call: Call, _: Recorder) -> None:
    carrier = sent.get()
    dumps = call.kwargs.get("serializer") or pickle.dumps

    def serializer(job: dict[str, Any]) -> bytes:
        with suppress(Exception):  # the user's own may take ARQ's keys only
            return dumps({**job, KEY: carrier})
        return dumps(job)

    call.kwargs = {**call.kwargs, "serializer": serializer}


def is_taken(pool: Any) -> bool:
    """Tell whether the pool's deserializer takes our key, so that a worker's like it does."""
    dumps, loads = pool.job_serializer or pickle.dumps, pool.job_deserializer
    if loads is None:
        return True
    try:
        return _is_taken(dumps, loads)
    except TypeError:  # one of them has no hash
        return _is_taken.__wrapped__(dumps, loads)


@lru_cache(maxsize=32)
def _is_taken(dumps: Callable[[Any], bytes], loads: Callable[[bytes], Any]) -> bool:
    job: dict[str, Any] = {"t": None, "f": KEY, "a": (), "k": {}, "et": 1}
    try:
        found = loads(dumps({**job, KEY: {"traceparent": ""}}))
        for key in job:
            found[key]
    except Exception:  # noqa: BLE001 - what the user's own code refuses
        return False
    return True


def carried(job: object) -> dict[str, Any] | None:
    """Return the carrier in what a deserializer has returned; None if there is none."""
    found = dict.get(job, KEY) if isinstance(job, dict) else None
    return found if isinstance(found, dict) else None


def join(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    ours = joining.get()
    if ours is None or not ours.belongs_to(call.instance):
        return
    joining.set(None)
    with nullcontext() if ours.found is None else recorder.polling():
        call.instance.execute_command(*ours.command)
        yield
        if call.error is None:
            answer = call.result.pop()  # at once: whatever fails now, ARQ gets its own answers
            if ours.found is not None:
                ours.found(answer, call.result)


def _key_of(job_id: str) -> str:
    # It begins like ARQ's own, so that a user of Redis with rights to that has rights to this.
    return f"arq:retry:{job_id}:{KEY}"


def fetch(job_id: str, found: Callable[[Any, list[Any]], None]) -> Joining:
    # `GET`, since a user of Redis may have rights to no more than what ARQ does there (`run_job`).
    return Joining(f"arq:retry:{job_id}", ("GET", _key_of(job_id)), found)


def kept(found: Any, enqueued: object = None) -> dict[str, Any] | None:
    """Return the carrier that a retry has left, if it was one of the job that was enqueued then."""
    try:
        carrier = json.loads(found)
    except (TypeError, ValueError):
        return None
    fits = isinstance(carrier, dict) and enqueued in (None, carrier.pop(ENQUEUED, None))
    return carrier if fits else None


def keep(job_id: str, carrier: dict[str, Any], enqueued: object) -> Joining:
    texts = {key: value for key, value in carrier.items() if isinstance(value, str)}  # and no junk
    written = json.dumps({**texts, ENQUEUED: enqueued})
    return _finishing(job_id, "PSETEX", _key_of(job_id), _LIFETIME, written)


def forget(job_id: str) -> Joining:
    return _finishing(job_id, "DEL", _key_of(job_id))


def _finishing(job_id: str, *command: object) -> Joining:
    return Joining(f"arq:in-progress:{job_id}", command)
