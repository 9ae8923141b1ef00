from __future__ import annotations

import json
from typing import Any

from redis import Redis
from rq import Queue, Retry

from soak import tasks

queue = Queue("soak", connection=Redis.from_url(tasks.BROKER))


def submit(name: str, key: str) -> str:
    return str(queue.enqueue_job(_job(name, key)).id)


def submit_hostile(name: str, key: str, junk: Any) -> str:
    job = _job(name, key)
    queue.connection.hset(job.key, "otel", json.dumps(junk))  # RQ leaves it there
    return str(queue.enqueue_job(job).id)


def _job(name: str, key: str) -> Any:
    again = Retry(max=1) if name in tasks.RETRIED else None
    return queue.create_job(f"{__name__}.{name}", (key,), retry=again)


for function in tasks.functions(submit):
    function.__module__ = __name__
    globals()[function.__name__] = function
