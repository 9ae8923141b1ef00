"""Read how many jobs wait, and for what."""

from __future__ import annotations

import sys
import time
from collections import Counter
from datetime import datetime
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Reading, asking_redis
from otel_queue_bridge.adapters.rq.reading import seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_queue_bridge.adapter import Ask

_MOST = 1000
"""So many rate limits, and jobs that they hold back, are looked at."""


def readings(worker: Any) -> Iterator[Reading]:
    queues = list(worker.queues)
    with asking_redis(worker.connection) as ask:
        found = iter(ask([command for queue in queues for command in _commands(queue)]))
        counts = [tuple(next(found) for _ in range(5)) for _ in queues]
        heads = ask([("LINDEX", queue.key, 0) for queue in queues])  # served next
        times = ask(
            [
                ("HGET", queue.job_class.key_for(_text(head)), "enqueued_at")
                for queue, head in zip(queues, heads, strict=True)
            ]
        )
        limited = _rate_limited(ask, worker)
    for queue, count, head, enqueued_at in zip(queues, counts, heads, times, strict=True):
        ready, scheduled, deferred, failed, expired = count
        delayed = scheduled + deferred + limited[queue.name]
        oldest = 0.0 if head is None else _age(enqueued_at)
        yield Reading(ready, queue.name, delayed=delayed, dead=failed - expired, oldest=oldest)


def _commands(queue: Any) -> tuple[tuple[Any, ...], ...]:
    return (
        ("LLEN", queue.key),
        ("ZCARD", queue.scheduled_job_registry.key),
        ("ZCARD", queue.deferred_job_registry.key),
        ("ZCARD", queue.failed_job_registry.key),
        # What has expired, which RQ removes now and then. What is kept for ever has -1.
        ("ZCOUNT", queue.failed_job_registry.key, 0, time.time()),
    )


def _age(enqueued_at: bytes | None) -> float | None:
    """Return the age of a ready job in seconds; None if the job is gone, or has no time."""
    try:
        moment = datetime.fromisoformat(_text(enqueued_at).replace("Z", "+00:00"))
    except ValueError:
        return None
    return max(0.0, time.time() - seconds(moment))


def _text(found: bytes | str | None) -> str:
    return found.decode(errors="replace") if isinstance(found, bytes) else found or ""


def _rate_limited(ask: Ask, worker: Any) -> Counter[str]:
    """Count by queue what rate limits hold back; a limit may be that of several queues."""
    limits = sys.modules.get("rq.rate_limit")  # since RQ 3.0
    if limits is None:
        return Counter()
    registry, job_class = limits.RateLimitRegistry, worker.job_class
    (keys,) = ask([("SRANDMEMBER", registry.rl_keys_key, _MOST)])
    held = [registry(_text(key), worker.connection).rate_limited_key for key in keys]
    found = ask([("ZRANGE", key, 0, _MOST - 1) for key in held])
    jobs = [_text(job_id) for job_ids in found for job_id in job_ids][:_MOST]
    origins = ask([("HGET", job_class.key_for(job_id), "origin") for job_id in jobs])
    return Counter(map(_text, origins))
