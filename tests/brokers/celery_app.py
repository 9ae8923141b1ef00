"""A user's Celery app with tasks on which workers lose telemetry; also the script that submits."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from celery import Celery, Task
from opentelemetry import trace

app = Celery("app", broker=os.environ["APP_BROKER"])
app.conf.update(
    task_ignore_result=True,
    task_protocol=int(os.environ.get("APP_PROTOCOL", "2")),
    task_publish_retry=False,
    broker_connection_retry_on_startup=True,
)
tracer = trace.get_tracer("user")


def note(*words: object) -> None:
    """Report to the test, without telemetry, that a task has run."""
    with Path(os.environ["APP_NOTES"]).open("a") as file:
        file.write(json.dumps(words) + "\n")


@app.task(bind=True, name="ok")
def ok(self: Task) -> None:
    note(self.request.id)


@app.task(name="inner")
def inner() -> None:
    with tracer.start_as_current_span("user work"):
        note("inner")


@app.task(bind=True, name="headers")
def headers(self: Task, *args: Any, **kwargs: Any) -> None:
    note(self.request.headers, args, kwargs)


@app.task(name="hang", time_limit=2)
def hang() -> None:
    with tracer.start_as_current_span("user work"):
        pass
    trace.get_tracer_provider().force_flush()  # no span survives a kill but those that have left
    time.sleep(60)


@app.task(name="die")
def die() -> None:
    os._exit(3)


def submit(name: str, count: str = "1", options: str = "{}") -> None:
    for _ in range(int(count)):
        app.send_task(name, **json.loads(options))


if __name__ == "__main__":
    if sys.argv[1] == "unregistered":
        app = Celery("other", broker=os.environ["APP_BROKER"])
        app.conf.task_publish_retry = False
        submit("ok")
    elif sys.argv[1] == "alone":  # with no span around it
        submit(*sys.argv[2:])
    else:
        with tracer.start_as_current_span("caller"):
            submit(*sys.argv[1:])
