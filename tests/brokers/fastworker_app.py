"""A user's functions on FastWorker, one for each way in which a task can end, and named after it.

As a script it makes the client's calls that its standard input asks for.
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import fastworker.cli
from fastworker import task
from fastworker.clients.client import Client
from fastworker.tasks.models import TaskPriority
from fastworker.tasks.serializer import SerializationFormat
from fastworker.workers.control_plane import ControlPlaneWorker
from opentelemetry import trace
from opentelemetry.trace import format_trace_id
from pydantic import BaseModel

import tests.fastworker_shim  # noqa: F401 - without it no subworker starts

tracer = trace.get_tracer("user")
folder = Path(os.environ["APP_FOLDER"])
background: set[object] = set()
TIME_LIMITS = {"too_long": 0.3, "sync_too_long": 0.3}
"""Time limits by task: a `Task` has a field for one, but FastWorker's clients cannot set it."""


class BoomError(Exception):
    """The error that a failing task raises."""


class Limiting(ControlPlaneWorker):
    """A user's control plane, with shorter time limits than FastWorker's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shutdown_timeout = 0.3

    async def _execute_task(self, task: Any) -> Any:
        if task.name in TIME_LIMITS:
            task.timeout = TIME_LIMITS[task.name]
        return await super()._execute_task(task)


fastworker.cli.ControlPlaneWorker = Limiting


def note(*words: object) -> None:
    """Report to the test, without telemetry, what happens: one write per line."""
    with (folder / "notes").open("a") as file:
        file.write(json.dumps(words) + "\n")


def is_open(gate: str) -> bool:
    return (folder / gate).exists()


async def pass_through(gate: str) -> None:
    note("gate", gate)
    while not is_open(gate):  # noqa: ASYNC110 - another process opens it
        await asyncio.sleep(0.02)


@task
async def ok(value: object = None, **named: object) -> object:
    with tracer.start_as_current_span("inner"):
        note("ok", value, named)
    return value


@task
def sync_ok(value: object = None) -> object:
    with tracer.start_as_current_span("inner"):
        return value


@task
async def fail() -> None:
    raise BoomError("it failed")


@task
def sync_fail() -> None:
    raise BoomError("it failed")


@task
async def own_timeout() -> None:
    raise TimeoutError("mine")


@task
def sync_own_timeout() -> None:
    raise TimeoutError("mine")


@task
async def too_long(gate: str) -> None:
    await pass_through(gate)


@task
def sync_too_long(gate: str) -> None:
    deadline = time.monotonic() + 180
    while not is_open(gate) and time.monotonic() < deadline:
        time.sleep(0.02)


@task
async def wait(gate: str) -> None:
    """Run until the test makes a file of this name."""
    await pass_through(gate)


@task
async def relieve(other: str, gate: str) -> None:
    """Let another task end before this one."""
    (folder / other).touch()
    await pass_through(gate)


@task
async def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Each of these prefixes belongs to one test, which counts its tasks.
for test in ("mixed", "stopped", "twice", "rerun"):
    for function in (ok, sync_ok, fail, wait):
        task(f"{test}_{function.__name__}")(function)


def look(task: Any) -> None:
    """Note what a hook sees of a task."""
    copied = task == task.model_copy(deep=True)
    note("hook", sorted(task.model_dump()), task.model_dump_json(), repr(task), copied)


def boom(_: object) -> None:
    raise BoomError("in a hook")


if hasattr(fastworker.cli.task_registry, "get_periodic_tasks"):  # 0.1.1 has neither of them
    task("hooked", before=look, after=look)(ok)
    task("fails_before", before=boom)(ok)
    task("fails_after", after=boom)(ok)
    if "APP_TICKS" in os.environ:
        task("tick", repeat_interval=0.5, repeat_count=2)(sync_ok)


async def call(client: Client, method: str, *args: Any, **kwargs: Any) -> Any:
    if "priority" in kwargs:
        kwargs["priority"] = TaskPriority(kwargs["priority"])
    try:
        return await getattr(client, method)(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - the test checks which
        return type(error).__name__


async def answer(
    calls: list[tuple[str, list[Any], dict[str, Any]]],
    control_plane: str,
    discovery: str = "",
    wire: str = "json",
    *,
    timeout: float = 50,  # NNG sends what has no answer again after 60 s
    retries: int = 0,
    limit: float | None = None,
    together: bool = False,
) -> dict[str, Any]:
    """Make these calls of a client's methods inside one of the caller's own spans."""
    client = Client(discovery, serialization_format=SerializationFormat(wire))
    client.timeout, client.retries = timeout, retries  # given 0, a client takes its default
    if not discovery:  # discovery would find it after two seconds
        client.workers.add(("control-plane", control_plane))
    with tracer.start_as_current_span("caller") as span:
        made = [call(client, method, *args, **kwargs) for method, args, kwargs in calls]
        if together:
            results = await asyncio.gather(*made)
        elif limit:
            results = [await within(limit, made[0])]
        else:
            results = [await one for one in made]
    if discovery:
        with tracer.start_as_current_span("start"):
            background.add(asyncio.create_task(client.start()))
    return {"trace": format_trace_id(span.get_span_context().trace_id), "results": results}


async def within(limit: float, call: Any) -> Any:
    try:
        return await asyncio.wait_for(call, limit)
    except TimeoutError:
        return "TimeoutError"


async def serve() -> None:
    """Answer until the input ends; calls that are still under way are then cancelled."""
    print(json.dumps("ready"), flush=True)
    while question := await asyncio.to_thread(sys.stdin.readline):
        answered = await answer(**json.loads(question))
        print(json.dumps(answered, default=plain), flush=True)


def plain(value: BaseModel) -> Any:
    return value.model_dump(mode="json")


def main() -> None:
    asyncio.run(serve())
