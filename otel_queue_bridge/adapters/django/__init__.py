"""Django Tasks: every backend's enqueue, the database worker, and tasks that run at once.

Its classes exist twice: in `django.tasks` since Django 6.0, and in the backport `django_tasks`.
Names cited in this folder are those of Django 6.1 and django-tasks-db 0.13.
"""

from otel_queue_bridge.adapter import Adapter, Hook, Variant, poll
from otel_queue_bridge.adapters.django import execute, submit, worker

_WORKER = "django_tasks_db.management.commands.db_worker"

adapter = Adapter(
    system="django",
    instruments=(),
    instruments_any=(
        Variant("django >= 6.0, < 7", "django.tasks", since="6.0"),
        Variant("django-tasks >= 0.12, < 0.13", "django_tasks"),
        Variant("django-tasks-db >= 0.12, < 0.14", "django_tasks_db"),
    ),
    queries_for_depth=True,
    hooks=(
        *(
            Hook(f"{package}.{target}", advice, overrides=True, optional=True)
            for package in ("django.tasks", "django_tasks")
            for target, advice in (
                ("backends.base:BaseTaskBackend.enqueue", submit.submit),
                ("backends.base:BaseTaskBackend.aenqueue", submit.submit),
                ("backends.immediate:ImmediateBackend._execute_task", execute.execute_at_once),
                ("base:Task.call", execute.execute),
                ("base:Task.acall", execute.execute),
            )
        ),
        Hook("django_tasks_db.backend:normalize_json", submit.store, within=submit.current),
        Hook(f"{_WORKER}:Worker.run", worker.work, overrides=True),
        Hook(f"{_WORKER}:Worker.run_task", execute.run_task, overrides=True),
        Hook(f"{_WORKER}:exclusive_transaction", worker.claim),
        Hook(f"{_WORKER}:close_old_connections", poll),
    ),
)
