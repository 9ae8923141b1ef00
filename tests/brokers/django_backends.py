"""Backends that a user has written."""

from django.tasks import TaskResult, TaskResultStatus, task_backends
from django.tasks.backends.base import BaseTaskBackend
from django_tasks_db import DatabaseBackend


class Audited(DatabaseBackend):
    """Does what its parent does, and a little more."""

    def enqueue(self, task, args, kwargs):
        result = super().enqueue(task, args, kwargs)
        self.last = result.id
        return result


class Routed(BaseTaskBackend):
    """Hands each task on to another backend."""

    supports_async_task = True

    def enqueue(self, task, args, kwargs):
        return task_backends["default"].enqueue(task.using(backend="default"), args, kwargs)


class Own(BaseTaskBackend):
    """Keeps its tasks in a list, and has a worker."""

    supports_async_task = True

    def __init__(self, alias, params):
        super().__init__(alias, params)
        self.waiting = []

    def enqueue(self, task, args, kwargs):
        result = TaskResult(
            task=task,
            id=str(len(self.waiting)),
            status=TaskResultStatus.READY,
            enqueued_at=None,
            started_at=None,
            last_attempted_at=None,
            finished_at=None,
            args=args,
            kwargs=kwargs,
            backend=self.alias,
            errors=[],
            worker_ids=[],
        )
        self.waiting.append(result)
        return result

    def work(self):
        while self.waiting:
            result = self.waiting.pop(0)
            context = [None] if result.task.takes_context else []
            result.task.call(*context, *result.args, **result.kwargs)

    async def work_soon(self):
        while self.waiting:
            result = self.waiting.pop(0)
            await result.task.acall(*result.args, **result.kwargs)
