"""The contract's tasks on RQ."""

from datetime import timedelta

from redis import Redis
from rq import Queue, Retry, get_current_job

from otel_queue_bridge.testing import tasks

queue = Queue("contract", connection=Redis.from_url(tasks.BROKER))


def submit(name: str, *args: str, delay: float = 0, **kwargs: str) -> str:
    function = f"{__name__}.{name}"
    again = Retry(max=1) if name in tasks.RETRIED else None
    if delay:
        planned = timedelta(seconds=delay)
        return str(queue.enqueue_in(planned, function, args=args, kwargs=kwargs).id)
    return str(queue.enqueue(function, args=args, kwargs=kwargs, retry=again).id)


for one in tasks.functions(current=lambda: get_current_job().id, submit=submit):
    globals()[one.__name__] = one
