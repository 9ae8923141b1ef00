"""The contract's tasks on RQ."""

import os
from datetime import timedelta

from redis import Redis
from rq import Queue, Retry, get_current_job

from tests.contract import bodies

queue = Queue("contract", connection=Redis.from_url(os.environ["CONTRACT_BROKER"]))


def ok() -> None:
    bodies.ran(get_current_job().id)


def counted() -> None:
    bodies.ran(get_current_job().id)


def echo(shown: str, hidden: str) -> str:
    bodies.ran(get_current_job().id)
    return shown + hidden


def span() -> None:
    bodies.ran(get_current_job().id)
    bodies.span()


def fail() -> None:
    bodies.ran(get_current_job().id)
    bodies.fail()


def slow() -> None:
    bodies.ran(get_current_job().id)
    bodies.slow()


def retry() -> None:
    job = get_current_job()
    bodies.ran(job.id)
    if job.retries_left:
        bodies.fail()


def nested() -> None:
    bodies.ran(get_current_job().id)
    bodies.nested(submit)


def submit(name: str, delay: float = 0, **arguments: str) -> str:
    function = f"{__name__}.{name}"
    again = Retry(max=1) if name == "retry" else None
    if delay:
        job = queue.enqueue_in(timedelta(seconds=delay), function, kwargs=arguments)
    else:
        job = queue.enqueue(function, kwargs=arguments, retry=again)
    return str(job.id)
