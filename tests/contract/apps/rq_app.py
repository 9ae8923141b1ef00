"""The contract's tasks on RQ."""

from datetime import timedelta

from redis import Redis
from rq import Queue, Retry, get_current_job

from otel_queue_bridge.testing import tasks

queue = Queue("contract", connection=Redis.from_url(tasks.BROKER))


def submit(name: str, *args: str, delay: float = 0, schedule: str = "", **kwargs: str) -> str:
    if schedule:
        from rq.cron import CronJob  # RQ 2.0 has none

        cron_job = CronJob(queue.name, globals()[name], interval=60, name=schedule)
        return str(cron_job.enqueue(queue.connection).id)
    function = f"{__name__}.{name}"
    again = Retry(max=1) if name in tasks.RETRIED else None
    if delay:
        planned = timedelta(seconds=delay)
        return str(queue.enqueue_in(planned, function, args=args, kwargs=kwargs).id)
    return str(queue.enqueue(function, args=args, kwargs=kwargs, retry=again).id)


for one in tasks.functions(current=lambda: get_current_job().id, submit=submit):
    one.__module__ = __name__
    globals()[one.__name__] = one
