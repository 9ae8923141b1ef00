"""The carrier: one more field in the job's hash, beside RQ's own.

`Job.restore` ignores fields that it does not know, so peers without us never notice it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import marked_attempt

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder

FIELD = "otel"
NAME = "otel-name"
"""In the carrier: the function's name, if only the user's own serializer could read it."""


def store(call: Call, _: Recorder) -> Generator[None, None, None]:
    yield
    held = carrier(call.instance)
    if held and call.result is not None:
        call.result[FIELD] = json.dumps(held)


def restore(call: Call, _: Recorder) -> Generator[None, None, None]:
    raw = call.argument(0, "raw_data")
    yield
    _keep(call.instance, raw.get(FIELD.encode()) or raw.get(FIELD))


def fetch(job: Any) -> None:
    """Read what the worker has left out, which restored the job without us."""
    _keep(job, job.connection.hget(job.key, FIELD))


def _keep(job: Any, found: Any) -> None:
    held = json.loads(found) if found else None
    if isinstance(held, dict):
        job.otel = held


def carrier(job: Any) -> dict[str, Any]:
    held: dict[str, Any] = vars(job).get("otel") or {}
    return held


def next_attempt(job: Any) -> int:
    """Return the number of the attempt that is next; 1 is the first."""
    marked = marked_attempt(carrier(job))
    return (getattr(job, "number_of_retries", None) or 0) + 1 if marked is None else marked
