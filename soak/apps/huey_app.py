from __future__ import annotations

import json
from typing import Any

from huey import RedisHuey

from soak import tasks

huey = RedisHuey("soak", url=tasks.BROKER)
registered: dict[str, Any] = {}


def submit(name: str, key: str) -> str:
    task = registered[name].s(key)
    huey.enqueue(task)
    return str(task.id)


def submit_hostile(name: str, key: str, junk: Any) -> str:
    task, trailer = registered[name].s(key), json.dumps(junk).encode()
    end = len(trailer).to_bytes(4, "big") + b"otel\n"
    huey.storage.enqueue(huey.serialize_task(task) + trailer + end)
    return str(task.id)


for function in tasks.functions(submit):
    name = function.__name__
    function.__module__ = __name__
    registered[name] = huey.task(retries=int(name in tasks.RETRIED))(function)
