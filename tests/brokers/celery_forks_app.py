"""A user's Celery app whose tasks submit and wait for the test; also the script that submits."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from celery import Celery, Task

import otel_queue_bridge
from tests.servers import LIMIT, wait_until

app = Celery("app", broker=os.environ["APP_BROKER"])
app.conf.update(
    task_ignore_result=True,
    task_publish_retry=False,
    broker_connection_retry_on_startup=True,
    **json.loads(os.environ.get("APP_CONF", "{}")),
)


def note(*words: object) -> None:
    """Report to the test, without telemetry, that a task has run: one write per line."""
    with Path(os.environ["APP_NOTES"]).open("a") as file:
        file.write(json.dumps([*words, os.getpid()]) + "\n")


def switch(*_: object) -> None:
    """Switch off and on again in the process that is sent SIGUSR2."""
    otel_queue_bridge.uninstrument()
    otel_queue_bridge.instrument()
    note("switched", "")


signal.signal(signal.SIGUSR2, switch)


@app.task(bind=True, name="ok")
def ok(self: Task) -> None:
    note("ok", self.request.id)


@app.task(bind=True, name="submits")
def submits(self: Task, count: int) -> None:
    for _ in range(count):
        ok.apply_async()
    note("submits", self.request.id)


@app.task(bind=True, name="gate")
def gate(self: Task, name: str = "gate", answer: Any = None) -> None:
    """Run until the test makes a file of this name."""
    note("gate", self.request.id)
    wait_until(lambda: Path(os.environ["APP_GATES"], name).exists(), 2 * LIMIT, name)
    note("passed", self.request.id, answer)


if __name__ == "__main__":
    for message in json.loads(sys.argv[1]):
        for _ in range(message.pop("count", 1)):
            app.send_task(**message)
