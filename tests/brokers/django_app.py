"""A user's tasks in a Django project, one for each way to end."""

import os
import time
from pathlib import Path

from django.tasks import task
from django.tasks.signals import task_enqueued, task_finished
from opentelemetry import trace

FOLDER = Path(os.environ.get("APP_FOLDER", "."))
tracer = trace.get_tracer("user")


class BoomError(Exception):
    """Raised by a task that fails."""


@task
def fine(word: str = "") -> str:
    with tracer.start_as_current_span("inner"):
        return word


@task
def plain() -> None:
    pass


@task
def boom() -> None:
    raise BoomError("it failed")


@task
def leaves() -> None:
    raise SystemExit(3)


@task
def interrupted() -> None:
    raise KeyboardInterrupt


@task
def unwritable() -> object:
    return object()


@task(takes_context=True)
def with_context(context, word: str) -> str:
    return f"{context.attempt} {word}"


@task(takes_context=True)
def greeted(context, name: str, word: str) -> None:
    """Take arguments of which one is a secret."""


@task
async def soon() -> str:
    with tracer.start_as_current_span("inner"):
        return "soon"


@task
def nested() -> None:
    fine.enqueue("of nested")


@task
def calls() -> str:
    """Call another task as the function that it is."""
    return fine.call("called")


@task
def counts_rows() -> int:
    from django_tasks_db.models import DBTaskResult

    return DBTaskResult.objects.count()


@task
def held(name: str) -> None:
    (FOLDER / f"{name} began").touch()
    while not (FOLDER / f"{name} may end").exists():
        time.sleep(0.02)


@task
def followed() -> None:
    """End, and have a signal's receiver submit another task."""


def follow(sender, task_result, **_):
    if task_result.task.module_path == f"{__name__}.followed":
        plain.enqueue()


task_finished.connect(follow)


def echo(sender, task_result, **_):
    if task_result.args == ["enqueue me twice"]:
        fine.enqueue("the second")


task_enqueued.connect(echo)
