from __future__ import annotations

import asyncio
from functools import wraps
from typing import TYPE_CHECKING, Any

from fastworker import task
from fastworker.clients.client import Client
from fastworker.tasks.serializer import TaskSerializer

import tests.fastworker_shim  # noqa: F401 - else there is no subworker
from soak import tasks

if TYPE_CHECKING:
    from collections.abc import Callable

client = Client()
# What the discovery would find, without its two seconds.
client.workers.add(("control-plane", tasks.BROKER))
loop = asyncio.new_event_loop()


def submit(name: str, key: str) -> str:
    # Wait for each: two requests at once would get each other's replies (0.3.0).
    return str(loop.run_until_complete(client.submit_task(name, (key,))).task_id)


def submit_hostile(name: str, key: str, junk: Any) -> str:
    serialize = TaskSerializer.serialize
    TaskSerializer.serialize = staticmethod(
        lambda data, *format_: serialize({**data, "otel": junk}, *format_)
    )
    try:
        return submit(name, key)
    finally:
        TaskSerializer.serialize = serialize


def asynchronous(function: Callable[[str], Any]) -> Callable[[str], Any]:
    @wraps(function)
    async def run(key: str) -> Any:
        return function(key)

    return run


for number, one in enumerate(tasks.functions(submit)):
    task(asynchronous(one) if number % 2 else one)
