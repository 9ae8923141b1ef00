"""A pool that brings a tracer, as pools of coroutines do: it takes the place of Celery's."""

import time
from collections.abc import Callable
from typing import Any

from celery import Task
from celery.app import trace
from celery.concurrency.solo import TaskPool


def build_own_tracer(_: str, task: Task, *__: object, **___: object) -> Callable[..., Any]:
    def trace_task(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        began = time.monotonic()
        return trace.trace_ok_t(task.run(*args, **kwargs), None, time.monotonic() - began, "")

    return trace_task


class Pool(TaskPool):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        trace.build_tracer = build_own_tracer
        trace.reset_worker_optimizations()
        super().__init__(*args, **kwargs)
