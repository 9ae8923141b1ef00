from __future__ import annotations

from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from soak import tasks

broker = RedisBroker(url=tasks.BROKER)
dramatiq.set_broker(broker)


def submit(name: str, key: str, **options: Any) -> str:
    return str(broker.get_actor(name).send_with_options(args=(key,), **options).message_id)


def submit_hostile(name: str, key: str, junk: Any) -> str:
    return submit(name, key, otel=junk)


for function in tasks.functions(submit):
    retries = int(function.__name__ in tasks.RETRIED)
    dramatiq.actor(
        function,
        actor_name=function.__name__,
        max_retries=retries,
        min_backoff=1,
        throws=tasks.ExpectedError,
    )
