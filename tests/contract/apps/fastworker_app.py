"""The contract's tasks on FastWorker."""

import asyncio
import os
import threading
import uuid

from fastworker import task
from fastworker.clients.client import Client
from fastworker.tasks.models import TaskResult, TaskStatus

import tests.fastworker_shim  # noqa: F401 - else there is no subworker
from tests.contract import bodies

marks: dict[str, str] = {}
"""By task id, which FastWorker does not tell the task."""

client = Client()
# What the discovery would find, without its two seconds.
client.workers.add(("control-plane", os.environ["CONTRACT_BROKER"]))
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()


@task
def ok(mark: str) -> None:
    bodies.ran(mark)


@task
async def counted(mark: str) -> None:
    bodies.ran(mark)


@task
def echo(shown: str, hidden: str, mark: str) -> str:
    bodies.ran(mark)
    return shown + hidden


@task
def span(mark: str) -> None:
    bodies.ran(mark)
    bodies.span()


@task
async def fail(mark: str) -> None:
    bodies.ran(mark)
    bodies.fail()


@task
def slow(mark: str) -> None:
    bodies.ran(mark)
    bodies.slow()


@task
def nested(mark: str) -> None:
    bodies.ran(mark)
    bodies.nested(submit)


def submit(name: str, delay: float = 0, *, wait: bool = False, **arguments: str) -> str:
    mark = uuid.uuid4().hex
    arguments["mark"] = mark
    planned = {"countdown": delay} if delay else {}
    if wait:
        client.timeout = client.retries = 1
        result: TaskResult = _run(client.submit_task(name, kwargs=arguments))
        if result.status == TaskStatus.FAILURE:  # FastWorker raises nothing
            raise TimeoutError(result.error)
        return str(result.task_id)
    task_id = str(_run(client.delay(name, **planned, **arguments)))
    marks[task_id] = mark
    return task_id


def _run(coroutine):
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()
