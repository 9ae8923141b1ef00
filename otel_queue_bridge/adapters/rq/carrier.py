"""The carrier: one more field in the job's hash, beside RQ's own.

`Job.restore` ignores fields that it does not know, so peers without us never notice it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import SUBMITTED, marked_attempt

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder

FIELD = "otel"
NAME = "otel-name"
"""In the carrier: the function's name, which only the job's serializer could read otherwise."""
SET_UP = "otel-set-up"
"""In the carrier of a job that is enqueued again and again: the first one that it had."""


def restore(call: Call, _: Recorder) -> Generator[None, None, None]:
    raw = call.argument(0, "raw_data")
    yield
    _keep(call.instance, raw.get(FIELD.encode()) or raw.get(FIELD))


def fetch(job: Any) -> None:
    """Read what the worker has left out, which restored the job without us."""
    _keep(job, job.connection.hget(job.key, FIELD))


def _keep(job: Any, found: Any) -> None:
    held = json.loads(found) if found else None
    job.otel = held if isinstance(held, dict) else {}


def carrier(job: Any) -> dict[str, Any]:
    held: dict[str, Any] = vars(job).get("otel") or {}
    return held


def set_up(held: dict[str, Any]) -> dict[str, Any]:
    """Return the carrier that leads to where a job was set up, which runs again and again."""
    first = held.get(SET_UP)
    return first if isinstance(first, dict) else held


def submitted_at(held: dict[str, Any]) -> float:
    """Return when the carrier was written by a submit; 0 if the job was only saved, or for junk."""
    try:
        return float(held.get(SUBMITTED, 0))
    except (TypeError, ValueError):
        return 0.0


def next_attempt(job: Any) -> int:
    """Return the number of the attempt that is next; 1 is the first."""
    marked = marked_attempt(carrier(job))
    return (getattr(job, "number_of_retries", None) or 0) + 1 if marked is None else marked
