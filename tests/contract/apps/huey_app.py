"""The contract's tasks on Huey."""

import threading

from huey import RedisHuey

from otel_queue_bridge.testing import tasks

huey = RedisHuey("contract", url=tasks.BROKER)
registered = {}
running = threading.local()
scheduled = []
"""The names of the periodic tasks whose time has come."""


@huey.pre_execute()
def note(task):
    running.id = task.id


def submit(
    name: str,
    *args: str,
    delay: float = 0,
    cancelled: bool = False,
    schedule: str = "",
    **kwargs: str,
) -> str:
    if schedule:
        return enqueue_periodic(schedule)
    options = {"delay": delay or None, "expires": -1 if cancelled else None}
    task = registered[name].s(*args, **kwargs, **options)
    huey.enqueue(task)
    return str(task.id)


def enqueue_periodic(name: str) -> str:
    """Have the consumer's scheduler find that its time has come."""
    enqueued = []
    huey.signal("enqueued")(lambda _, task: enqueued.append(task.id))
    scheduled.append(name)
    huey.create_consumer()._create_scheduler().enqueue_periodic_tasks(None)  # noqa: SLF001
    scheduled.remove(name)
    (found,) = enqueued
    return str(found)


for one in tasks.functions(current=lambda: running.id, submit=submit):
    one.__module__ = __name__
    registered[one.__name__] = huey.task(retries=int(one.__name__ in tasks.RETRIED))(one)


@huey.periodic_task(lambda _: "every night" in scheduled, name="every night")
def every_night() -> None:
    pass
