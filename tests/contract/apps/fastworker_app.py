"""The contract's tasks on FastWorker."""

import asyncio
import inspect
import threading
import uuid
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any

from fastworker import task
from fastworker.clients.client import Client
from fastworker.tasks.models import TaskResult, TaskStatus

import tests.fastworker_shim  # noqa: F401 - else there is no subworker
from otel_queue_bridge.testing import tasks

marks: dict[str, str] = {}
"""By task id, which FastWorker does not tell the task."""
mark: ContextVar[str] = ContextVar("mark")

client = Client()
# What the discovery would find, without its two seconds.
client.workers.add(("control-plane", tasks.BROKER))
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()


def marked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a task take its mark as one more argument; some are coroutines."""

    @wraps(function)
    def run(*args: str, _mark: str, **kwargs: str) -> Any:
        mark.set(_mark)
        return function(*args, **kwargs)

    @wraps(function)
    async def run_soon(*args: str, _mark: str, **kwargs: str) -> Any:
        return run(*args, _mark=_mark, **kwargs)

    chosen: Any = run_soon if function.__name__ in ("counted", "fail") else run
    signature = inspect.signature(function)
    taken = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
    others = [one for one in signature.parameters.values() if one.kind is one.VAR_KEYWORD]
    own = inspect.Parameter("_mark", inspect.Parameter.KEYWORD_ONLY)
    chosen.__signature__ = signature.replace(parameters=[*taken, own, *others])
    return chosen


def submit(name: str, *args: str, delay: float = 0, **kwargs: str) -> str:
    kwargs["_mark"] = uuid.uuid4().hex
    planned = {"countdown": delay} if delay else {}
    if tasks.UNREACHABLE:  # only who waits for the result gets to know
        client.timeout = client.retries = 1
        result: TaskResult = _run(client.submit_task(name, args, kwargs))
        if result.status == TaskStatus.FAILURE:  # FastWorker raises nothing
            raise TimeoutError(result.error)
        return str(result.task_id)
    task_id = str(_run(client.delay(name, *args, **planned, **kwargs)))
    marks[task_id] = kwargs["_mark"]
    return task_id


def _run(coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


for one in tasks.functions(current=mark.get, submit=submit):
    task(marked(one))
