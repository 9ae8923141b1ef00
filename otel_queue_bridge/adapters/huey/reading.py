"""Read Huey's tasks: their names, their attempts, when they are due, and where the broker is."""

from __future__ import annotations

from datetime import timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Arguments, Task, marked_attempt
from otel_queue_bridge.adapters.huey.carrier import carrier

if TYPE_CHECKING:
    from datetime import datetime

_TRANSPORTS = {
    "RedisStorage": "redis",
    "SqliteStorage": "sqlite",
    "PostgresStorage": "postgresql",
    "FileStorage": "file",
    "MemoryStorage": "memory",
}


def task_of(huey: Any, task: Any) -> Task:
    held = carrier(task)
    return Task(
        huey._registry.task_to_string(type(task)),  # noqa: SLF001 - `task.name` lacks its module
        huey.name,
        id=str(task.id),
        carrier=held,
        attempt=marked_attempt(held) or 1,
        priority=task.priority if type(task.priority) is int else None,
        eta=None if task.eta is None else _seconds(task.eta, utc=huey.utc),
        server=server(huey.storage),
        transport=transport(huey.storage.__class__),
        arguments=lambda: Arguments(_function(type(task)), task.args, task.kwargs),
    )


def _seconds(moment: datetime, *, utc: bool) -> float:
    """Return the seconds since the epoch; Huey's times bear no zone."""
    return (moment.replace(tzinfo=timezone.utc) if utc else moment).timestamp()


@lru_cache(100)
def kinds(storage: type) -> frozenset[str]:
    return frozenset(kind.__name__ for kind in storage.__mro__)


@lru_cache(100)
def transport(storage: type) -> str | None:
    return next((name for kind, name in _TRANSPORTS.items() if kind in kinds(storage)), None)


def server(storage: Any) -> tuple[str, int | None] | None:
    pool = getattr(storage, "pool", None)
    options = getattr(pool, "connection_kwargs", {})
    return (options["host"], options.get("port")) if "host" in options else None


def _function(kind: Any) -> Any:
    """Return the user's function, which `TaskWrapper.create_task` leaves in a closure only."""
    code, cells = kind.execute.__code__, kind.execute.__closure__ or ()
    found = dict(zip(code.co_freevars, cells, strict=True)).get("func")
    return found and found.cell_contents
