"""Read FastWorker's tasks: which function is called, how urgent it is, and when it is due."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Arguments, Task
from otel_queue_bridge.adapters.fastworker import carrier, traffic

if TYPE_CHECKING:
    from collections.abc import Callable


_PORTS = ("critical", "high", "normal", "low")
"""The priorities in the order of their ports, which count up from a worker's address."""


def task_of(task: Any, worker: Any = None) -> Task:
    priority = task.priority.value
    eta = getattr(task, "eta", None)  # 0.1.1 has no ETA
    return Task(
        task.name,
        priority,  # each priority has its own socket, and so is a queue
        id=task.id,
        carrier=carrier.submitted(task),
        attempt=carrier.attempt(task),
        priority=priority,
        eta=None if eta is None else eta.timestamp(),
        worker=None if worker is None else worker.worker_id,
        transport="nng",
        server=None if worker is None else listener(worker.base_address, priority),
        # A client may know no more than the task's name.
        arguments=lambda: Arguments(function(task.name), task.args, task.kwargs),
    )


def listener(address: str, priority: str) -> tuple[str, int] | None:
    """Return where the worker at this address takes tasks of this priority."""
    host, port = traffic.server(address)
    return None if host is None or port is None else (host, port + _PORTS.index(priority))


def function(name: str) -> Callable[..., Any] | None:
    """Return the function that this process has registered under the name."""
    registry: Any = sys.modules["fastworker.tasks.registry"]
    found: Callable[..., Any] | None = registry.task_registry.get_task(name)
    return found
