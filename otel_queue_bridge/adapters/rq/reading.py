"""Read RQ's jobs, but never unpickle one in a process that will not run it."""

from __future__ import annotations

import json
import pickletools
import sys
from datetime import datetime, timezone
from typing import Any

from otel_queue_bridge.adapter import Arguments, Task
from otel_queue_bridge.adapters.rq.carrier import (
    NAME,
    carrier,
    next_attempt,
    set_up,
    submitted_at,
)


def task_of(job: Any, queue: str, connection: Any, worker: str | None = None) -> Task:
    held_back = getattr(job, "_dependency_ids", None) or getattr(job, "rate_limit_key", None)
    return Task(
        name(job),
        queue,
        id=job._id,  # noqa: SLF001 - `Job.id` makes one, and RQ asks whether there is any
        carrier=carrier(job),
        other_carriers=(job.meta,),  # other tracers put it there
        attempt=next_attempt(job),
        # Waiting for other jobs is planned delay, be it for their results or for their rate limit.
        eta=seconds(job.enqueued_at) if held_back and job.enqueued_at else None,
        worker=worker,
        server=server(connection),
        transport="redis",
        arguments=(lambda: arguments(job)) if _deserialized(job) else None,
    )


def run_of(job: Any, queue: str, connection: Any, worker: str) -> Task:
    """Return the task that a worker has taken.

    A process without us may have enqueued it once more: then nobody has renewed its carrier.
    """
    task = task_of(job, queue, connection, worker)
    held = carrier(job)
    if held and job.started_at and seconds(job.started_at) > submitted_at(held):
        task.rerun_of = set_up(held)
        task.eta = seconds(job.enqueued_at) if job.enqueued_at else None
    return task


def name(job: Any) -> str:
    """Return the function's path; that of a method has its class, which RQ leaves out."""
    held = carrier(job).get(NAME)
    if isinstance(held, str):
        return held
    known, instance = vars(job).get("_func_name"), vars(job).get("_instance")
    if isinstance(known, str):
        return f"{_class_of(instance)}.{known}" if has_instance(job) else known
    try:
        return _name_in(job.data)
    except Exception:  # noqa: BLE001 - the user's own serializer wrote it, or it is junk
        return "unknown"


def has_instance(job: Any) -> bool:
    """Tell whether its function is a method, or an object that can be called."""
    instance = vars(job).get("_instance")
    return instance is not None and type(instance) is not object  # which RQ's UNEVALUATED is


def _class_of(instance: Any) -> str:
    kind = instance if isinstance(instance, type) else type(instance)
    return f"{kind.__module__}.{kind.__qualname__}"


def seconds(moment: datetime) -> float:
    """Return the seconds since the epoch; RQ 2.0 does not say that its times are in UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()


def _deserialized(job: Any) -> bool:
    return isinstance(vars(job).get("_args"), (tuple, list))


def _name_in(data: bytes) -> str:
    """Return the function's name, the first text that RQ serializes; next comes its instance."""
    if data[:1] == b"[":
        return next(text for text in json.loads(data) if isinstance(text, str))
    texts: list[str] = []
    for opcode, argument, _ in pickletools.genops(data):
        if isinstance(argument, str):
            texts.append(argument)
        elif texts and opcode.name == "STACK_GLOBAL":
            function, module, kind, *_ = texts
            return f"{module}.{kind}.{function}"
        elif texts and opcode.name not in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            break  # it has no instance
    return texts[0]


def server(connection: Any) -> tuple[str, int | None] | None:
    options = connection.connection_pool.connection_kwargs
    return (options["host"], options.get("port")) if "host" in options else None


def arguments(job: Any, *, runs_here: bool = False) -> Arguments:
    try:
        module = str(vars(job).get("_func_name")).rpartition(".")[0]
        here = runs_here or has_instance(job) or module in sys.modules  # `Job.func` imports it
        return Arguments(job.func if here else None, job.args, job.kwargs)
    except Exception:  # noqa: BLE001 - who submits need not have the function
        return Arguments(None, (), job.kwargs if _deserialized(job) else {})
