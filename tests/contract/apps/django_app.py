"""The contract's tasks on Django."""

import os
from datetime import timedelta

import django

from otel_queue_bridge.adapters.django import queues
from otel_queue_bridge.testing import tasks

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.contract.apps.django_settings")
django.setup()

from django.utils import timezone  # noqa: E402 - settings come first

if django.VERSION >= (6,):
    from django.tasks import task
    from django.tasks.signals import task_started
else:
    from django_tasks import task
    from django_tasks.signals import task_started

queues.EVERY = 0.5  # the rig exports often, and waits for what it exports
running = []


def submit(name: str, *args: str, delay: float = 0, **kwargs: str) -> str:
    asked = globals()[name]
    if delay:
        asked = asked.using(run_after=timezone.now() + timedelta(seconds=delay))
    return str(asked.enqueue(*args, **kwargs).id)


def note(sender: object, task_result: object, **_: object) -> None:
    running[:] = [task_result.id]


task_started.connect(note)

for function in tasks.functions(current=lambda: str(running[0]), submit=submit):
    function.__module__ = __name__
    globals()[function.__name__] = task(function)
