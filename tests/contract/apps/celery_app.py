"""The contract's tasks on Celery."""

from celery import Celery, current_task
from celery.beat import ScheduleEntry, Scheduler

from otel_queue_bridge.testing import tasks

app = Celery("contract", broker=tasks.BROKER)
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    task_publish_retry=False,
    worker_enable_remote_control=False,  # two workers of one name would share its queue
    worker_prefetch_multiplier=1,
)

AGAIN = {"autoretry_for": (tasks.BoomError,), "max_retries": 1, "default_retry_delay": 0}


def submit(
    name: str,
    *args: str,
    delay: float = 0,
    cancelled: bool = False,
    schedule: str = "",
    **kwargs: str,
) -> str:
    if schedule:
        entry = ScheduleEntry(schedule, name, schedule=60, args=args, kwargs=kwargs, app=app)
        return str(Scheduler(app, lazy=True).apply_async(entry).id)
    expires = -1 if cancelled else None
    return str(app.tasks[name].apply_async(args, kwargs, countdown=delay, expires=expires).id)


for function in tasks.functions(current=lambda: current_task.request.id, submit=submit):
    name = function.__name__
    app.task(function, name=name, **(AGAIN if name in tasks.RETRIED else {}))
