"""A user's Celery app with one task for each way in which a task can end, and named after it.

As a script it submits them.
"""

import json
import os
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from billiard.process import current_process
from celery import Celery, Task
from celery.exceptions import Ignore, Reject
from kombu.serialization import register as register_serializer
from opentelemetry import trace

app = Celery("outcomes", broker=os.environ["APP_BROKER"])
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    worker_log_format="%(name)s %(levelname)s %(message)s",
)
register_serializer(
    "garbage", lambda _: "{", None, content_type="application/json", content_encoding="utf-8"
)
notes = Path(os.environ["APP_NOTES"])


class Unpicklable(Exception):  # noqa: N818
    def __init__(self, connection: object, reason: object) -> None:
        super().__init__(reason)
        self.connection = connection


def task(name: str, **options: Any) -> Any:
    def register(body: Any) -> Any:
        app.task(body, bind=True, name=name, **options)
        return body

    return register


def began(self: Task) -> bool:
    """Note that this task runs; return whether it is the first time."""
    try:
        (notes / self.request.id).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@task("success")
@task("expired")
@task("expired while held")
@task("revoked")
@task("revoked while held")
@task("undecodable")
@task("not accepted")
def success(_: Task) -> None:
    pass


@task("failure")
def failure(_: Task) -> None:
    raise ValueError


@task("failure that no pickle carries")
def unpicklable(_: Task) -> None:
    raise Unpicklable(open(os.devnull), lambda: None)  # noqa: SIM115, PTH123


@task("expected failure", throws=(KeyError,))
def expected(_: Task) -> None:
    raise KeyError


@task("retry")
def retry(self: Task) -> None:
    if self.request.retries == 0:
        raise self.retry(countdown=0)


@task("retry of what is expected", throws=(KeyError,))
def retry_expected(self: Task) -> None:
    if self.request.retries == 0:
        raise self.retry(exc=KeyError(), countdown=0)


@task("autoretry", autoretry_for=(ConnectionError,), default_retry_delay=0)
def autoretry(self: Task) -> None:
    if self.request.retries == 0:
        raise ConnectionError


@task("autoretry of what no pickle carries", autoretry_for=(Unpicklable,), default_retry_delay=0)
def autoretry_unpicklable(self: Task) -> None:
    if self.request.retries == 0:
        unpicklable(self)


@task("last retry", autoretry_for=(ConnectionError,), default_retry_delay=0, max_retries=1)
def last_retry(_: Task) -> None:
    raise ConnectionError


@task("ignore")
def ignore(_: Task) -> None:
    raise Ignore


@task("reject", acks_late=True)
def reject(_: Task) -> None:
    raise Reject


@task("reject and requeue", acks_late=True)
def requeue(self: Task) -> None:
    if began(self):
        raise Reject(requeue=True)


@task("reject and requeue too late")
def requeue_too_late(_: Task) -> None:
    raise Reject(requeue=True)


@task("terminated")
@task("soft time limit", soft_time_limit=1)
@task("hard time limit", time_limit=1)
def hang(self: Task) -> None:
    began(self)
    time.sleep(60)


# Ample: it must have noted by then that it began.
@task("hard time limit, requeued", time_limit=3, acks_late=True, acks_on_timeout=False)
def hang_once(self: Task) -> None:
    if began(self):
        time.sleep(60)


def about_to_end(self: Task) -> None:
    """Export this child's earlier spans, and wait until the worker knows that it runs this task.

    A kill loses all spans that are not exported yet. And if two children end together, Celery 5.7
    hands a task that it has not yet seen begin to a third (`AsynPool.on_partial_read`).
    """
    trace.get_tracer_provider().force_flush()
    while current_process().name != "MainProcess" and not seen(self.request.id).exists():
        time.sleep(0.02)


def seen(task_id: str) -> Path:
    return notes / f"{task_id}.seen"


@task("os._exit")
def leave(self: Task) -> None:
    about_to_end(self)
    os._exit(3)


@task("SIGKILL")
def killed(self: Task) -> None:
    about_to_end(self)
    os.kill(os.getpid(), signal.SIGKILL)


@task("SIGKILL, requeued", acks_late=True, reject_on_worker_lost=True)
@task("SIGKILL, retried", acks_late=True, retry_on_worker_lost=True, default_retry_delay=0)
def killed_once(self: Task) -> None:
    if began(self):
        about_to_end(self)
        os.kill(os.getpid(), signal.SIGKILL)


@task("SystemExit")
def system_exit(self: Task) -> None:
    about_to_end(self)
    sys.exit(3)


@task("SystemExit, requeued", acks_late=True, reject_on_worker_lost=True)
def system_exit_once(self: Task) -> None:
    if began(self):
        about_to_end(self)
        sys.exit(3)


def send(name: str) -> str:
    task_id, options = str(uuid.uuid4()), {}
    if name == "expired":
        options["expires"] = -1
    elif name == "expired while held":
        options |= {"countdown": 1, "expires": 0.5}
    elif name == "revoked":
        app.control.revoke(task_id, reply=True, limit=1, timeout=60)
    elif name == "revoked while held":
        options["countdown"] = 6  # the revoke must come before
    elif name == "undecodable":
        options["serializer"] = "garbage"
    elif name == "not accepted":
        options["serializer"] = "pickle"
    app.send_task(name, task_id=task_id, **options)
    if name == "revoked while held":
        app.control.revoke(task_id, reply=True, limit=1, timeout=60)
    elif name == "terminated":
        while not (notes / task_id).exists():
            time.sleep(0.02)
        app.control.revoke(task_id, terminate=True, reply=True, limit=1, timeout=60)
    return task_id


def watch(task_ids: set[str]) -> None:
    """Let each of these tasks end once the worker lists it as active."""
    while task_ids:
        (active,) = app.control.inspect(limit=1, timeout=60).active().values()
        for task_id in task_ids & {task["id"] for task in active}:
            seen(task_id).touch()
            task_ids.remove(task_id)


if __name__ == "__main__":
    sent = {name: send(name) for name in json.loads(sys.argv[1])}
    watch({sent[name] for name in json.loads(sys.argv[2])})
