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
    with asking_redis(worker.connection) as ask:
        limited = _rate_limited(ask, worker)
        for queue in worker.queues:
            ready, scheduled, deferred, dead, head = ask(
                [
                    ("LLEN", queue.key),
                    ("ZCARD", queue.scheduled_job_registry.key),
                    ("ZCARD", queue.deferred_job_registry.key),
                    # RQ does not count what has expired, and removes it now and then.
                    ("ZCOUNT", queue.failed_job_registry.key, time.time(), "+inf"),
                    ("LINDEX", queue.key, 0),  # served next
                ]
            )
            yield Reading(
                ready,
                queue.name,
                delayed=scheduled + deferred + limited[queue.name],
                dead=dead,
                oldest=_age(ask, queue.job_class, head),
            )


def _age(ask: Ask, job_class: Any, job_id: bytes | None) -> float | None:
    """Return the age of a ready job in seconds; None if it is gone, or has no time."""
    if job_id is None:
        return 0.0
    (found,) = ask([("HGET", job_class.key_for(job_id.decode()), "enqueued_at")])
    if not found:
        return None
    enqueued_at = datetime.fromisoformat(found.decode().replace("Z", "+00:00"))
    return max(0.0, time.time() - seconds(enqueued_at))


def _rate_limited(ask: Ask, worker: Any) -> Counter[str]:
    """Count by queue what rate limits hold back; a limit may be that of several queues."""
    limits = sys.modules.get("rq.rate_limit")  # since RQ 3.0
    if limits is None:
        return Counter()
    registry, job_class = limits.RateLimitRegistry, worker.job_class
    (keys,) = ask([("SRANDMEMBER", registry.rl_keys_key, _MOST)])
    held = [registry(key.decode(), worker.connection).rate_limited_key for key in keys]
    found = ask([("ZRANGE", key, 0, _MOST - 1) for key in held])
    jobs = [job_id.decode() for job_ids in found for job_id in job_ids][:_MOST]
    origins = ask([("HGET", job_class.key_for(job_id), "origin") for job_id in jobs])
    return Counter(origin.decode() for origin in origins if origin)
