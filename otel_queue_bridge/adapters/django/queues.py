"""Ask the database how many tasks wait, and for what."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_queue_bridge.adapter import Recorder

EVERY = 15.0
"""Seconds for which an answer is good: no worker asks more often, however often it exports."""


class Queues:
    """What one worker serves. Django gives each thread its own connection, a reading's too."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._asked = -math.inf
        self._answer: list[Reading] = []

    def readings(self, worker: Any) -> list[Reading]:
        now = time.monotonic()
        if now - self._asked >= EVERY:
            self._asked, self._answer = now, []
            with self._recorder.polling():
                self._answer = list(_ask(worker))
        return self._answer


def _ask(worker: Any) -> Iterator[Reading]:
    models = sys.modules["django_tasks_db.models"]
    rows = models.DBTaskResult.objects.filter(backend_name=worker.backend_name)
    if not worker.process_all_queues:
        rows = rows.filter(queue_name__in=worker.queue_names)
    excluded = getattr(worker, "excluded_queue_names", [])  # since 0.13
    if excluded:
        rows = rows.exclude(queue_name__in=excluded)
    try:
        planned = rows.filter(status="READY", run_after__gt=_now())
        ready, dead = _count(rows.ready()), _count(rows.failed())
        delayed = _count(planned.exclude(run_after=models.get_date_max()))
        for name in {*worker.queue_names, *ready, *delayed, *dead} - {"*"}:
            value, later, failed = (found.get(name, 0) for found in (ready, delayed, dead))
            oldest = _age(rows.ready().filter(queue_name=name)) if value else 0.0
            yield Reading(value, name, delayed=later, dead=failed, oldest=oldest)
    finally:
        sys.modules["django.db"].connections[rows.db].close()


def _count(rows: Any) -> dict[str, int]:
    count = sys.modules["django.db.models"].Count("pk")
    return dict(rows.order_by().values_list("queue_name").annotate(count))


def _age(ready: Any) -> float | None:
    """Return for how many seconds the task has been due that is served next; None if it is gone."""
    now = _now()
    head = ready.values_list("enqueued_at", "run_after").first()
    if head is None:
        return None
    # Without `run_after`, it is in 9999.
    age: float = min((now - moment).total_seconds() for moment in head if moment <= now)
    return age


def _now() -> Any:
    return sys.modules["django.utils.timezone"].now()
