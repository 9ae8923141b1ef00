"""The contract's tasks on Celery."""

import os
from typing import Any

from celery import Celery, Task

from tests.contract import bodies

app = Celery("contract", broker=os.environ["CONTRACT_BROKER"])
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    task_publish_retry=False,
)


def task(function: Any) -> Any:
    def run(self: Task) -> None:
        bodies.ran(self.request.id)
        function(self)

    return app.task(run, bind=True, name=function.__name__)


@task
def ok(_: Task) -> None:
    pass


@task
def counted(_: Task) -> None:
    pass


@app.task(name="echo", bind=True)
def echo(self: Task, shown: str, hidden: str) -> str:
    bodies.ran(self.request.id)
    return shown + hidden


@task
def span(_: Task) -> None:
    bodies.span()


@task
def fail(_: Task) -> None:
    bodies.fail()


@task
def slow(_: Task) -> None:
    bodies.slow()


@task
def retry(self: Task) -> None:
    if self.request.retries == 0:
        raise self.retry(countdown=0)


@task
def nested(_: Task) -> None:
    bodies.nested(submit)


def submit(name: str, delay: float = 0, **arguments: str) -> str:
    return str(app.tasks[name].apply_async(kwargs=arguments, countdown=delay).id)
