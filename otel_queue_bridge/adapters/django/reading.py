"""Read Django's tasks, as a caller has them and as a worker finds them in the database."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import SUBMITTED, Arguments, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CARRIER = "otel"
"""The key of the carrier beside `args` and `kwargs` in a row's JSON."""
DATABASE = "django_tasks_db.backend"
ELSEWHERE = {"django_tasks_rq.backend", "huey.contrib.djhuey.tasks_backend"}
"""Backends that give each task to another queue."""
_BACKENDS = ("django.tasks.backends.", "django_tasks.backends.")
_HOMES = {
    DATABASE,
    *ELSEWHERE,
    *(f"{place}{kind}" for place in _BACKENDS for kind in ("immediate", "dummy")),
}
_NEVER = 9999
"""The year until which a row waits that has no `run_after` (`get_date_max`)."""


def home(backend: Any) -> str:
    """Return the module of the backend that this one is, or is derived from; empty for others."""
    kinds = type(backend).__mro__
    return next((kind.__module__ for kind in kinds if kind.__module__ in _HOMES), "")


def task_of(task: Any, args: Any, kwargs: Any) -> Task:
    """Read a task in the process that calls it."""
    return Task(
        task.module_path,
        task.queue_name,
        attempt=1,
        priority=task.priority or None,  # it is 0 unless the user chose one
        eta=None if task.run_after is None else task.run_after.timestamp(),
        attributes={"django.backend": task.backend},
        arguments=lambda: Arguments(_function(task), args, kwargs),
    )


def task_in(row: Any, worker_id: str) -> Task:
    """Read a task that a worker has claimed."""
    planned = row.run_after
    due = row.enqueued_at if planned.year == _NEVER else max(row.enqueued_at, planned)
    task = Task(
        row.task_path,
        row.queue_name,
        id=str(row.id),
        # By the time in the row, also what comes from a caller without us has its wait.
        carrier={**_carrier(row), SUBMITTED: f"{row.enqueued_at.timestamp():.6f}"},
        attempt=len(row.worker_ids) or 1,
        priority=row.priority or None,
        eta=due.timestamp(),
        worker=worker_id,
        attributes={"django.backend": row.backend_name},
        arguments=lambda: _arguments(row),
    )
    place(task)
    return task


def place(task: Task) -> None:
    """Say where the database is that holds the task."""
    database, models = sys.modules["django.db"], sys.modules.get("django_tasks_db.models")
    if models is None:  # its app is not installed: Django will say so
        return
    settings = database.connections.settings[database.router.db_for_write(models.DBTaskResult)]
    task.transport = settings["ENGINE"].rpartition(".")[2]
    host, port = settings["HOST"], str(settings["PORT"])
    if host and not host.startswith("/") and "," not in host:  # a socket, or several hosts
        task.server = (host, int(port) if port.isdecimal() else None)


def _carrier(row: Any) -> Mapping[str, Any]:
    found = row.args_kwargs.get(CARRIER) if isinstance(row.args_kwargs, dict) else None
    return found if isinstance(found, dict) else {}


def is_at(path: str, task: Any) -> bool:
    """Tell whether this path leads to the task; its function may be somewhere else by now."""
    return getattr(_at(path), "func", None) is task.func


def _at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(sys.modules.get(module), name, None)


def _arguments(row: Any) -> Arguments:
    task = _at(row.task_path)
    function = _function(task) if hasattr(task, "takes_context") else None
    return Arguments(function, row.args_kwargs["args"], row.args_kwargs["kwargs"])


def _function(task: Any) -> Callable[..., Any]:
    """Return what takes the task's arguments: Django itself adds a context in front."""
    function: Callable[..., Any] = task.func
    return partial(function, None) if task.takes_context else function
