"""A user's functions on RQ, one for each way in which a job can end, and named after it.

As a script it submits them.
"""

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from opentelemetry import trace
from redis import Redis
from rq import Callback, Queue, Retry, command, get_current_job
from rq.worker import HerokuWorker, Worker

try:
    from rq import Repeat
except ImportError:  # before RQ 2.2
    Repeat = None

APP = "tests.brokers.rq_app"
tracer = trace.get_tracer("user")
connection = Redis.from_url(os.environ["APP_BROKER"])
queue = Queue("default", connection=connection)
folder = Path(os.environ["APP_FOLDER"])


def note(*words: object) -> None:
    """Report to the test, without telemetry, what happens: one write per line."""
    with (folder / "notes").open("a") as file:
        file.write(json.dumps([*words, os.getpid()]) + "\n")


def first() -> bool:
    """Note that this job runs; return whether it is the first time."""
    try:
        (folder / get_current_job().id).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def wait_for(gate: str) -> None:
    deadline = time.monotonic() + 170  # RQ itself gives a job 180 s
    while not (folder / gate).exists() and time.monotonic() < deadline:
        time.sleep(0.02)


class Unprintable(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError


def success() -> str:
    return "done"


def failure() -> None:
    raise ValueError


def quoting() -> None:
    """Fail with a message that contains some other traceback."""
    message = "Traceback (most recent call last):\n  ...\nswordfish: what nobody may see"
    raise ValueError(message)


def unprintable() -> None:
    raise Unprintable


def retry() -> None:
    if first():
        raise ConnectionError


def retry_later() -> None:
    retry()


def last_retry() -> None:
    raise ConnectionError


def returned_retry() -> Any:
    return Retry(max=2) if first() else None


def returned_retry_later() -> Any:
    return Retry(max=2, interval=1) if first() else None


def returned_retry_too_often() -> Any:
    return Retry(max=1)


def repeat() -> None:
    pass


def repeat_later() -> None:
    pass


def too_long() -> None:
    signal.pause()


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_and_retried() -> None:
    if first():
        killed()


def killed_and_retried_later() -> None:
    killed_and_retried()


def crashed() -> None:
    os.kill(os.getpid(), signal.SIGABRT)


def exits() -> None:
    os._exit(3)


def system_exit() -> None:
    sys.exit(3)


def stopped() -> None:
    command.send_stop_job_command(connection, get_current_job().id)
    signal.pause()


def stopped_execution() -> None:
    job = get_current_job()
    (execution,) = job.get_executions()
    command.send_stop_execution_command(connection, job.id, execution.id)
    signal.pause()


async def coroutine() -> None:
    await asyncio.sleep(0)
    with tracer.start_as_current_span("inner"):
        await asyncio.sleep(0)


def forgotten() -> str:
    return "done"


def undone() -> None:
    """Fail in a way that RQ's work-horse can no longer record."""
    if first():
        raise ValueError


def callback_fails() -> None:
    pass


def fail_in_callback(*_: object) -> None:
    raise KeyError


def note_failure(_: Any, __: Any, kind: type, ___: Any, traceback: Any) -> None:
    note("callback", kind.__name__, traceback is None)


def note_exception(_: Any, kind: type, __: Any, traceback: Any) -> None:
    note("handler", kind.__name__, traceback is None)


def gate(name: str = "gate") -> None:
    """Run until the test makes a file of this name."""
    note("gate", name)
    wait_for(name)


def gate_retried() -> None:
    gate() if first() else None


def killed_inside() -> None:
    """Die after one of the user's spans has ended, and before another has."""
    with tracer.start_as_current_span("inner"):
        pass
    if "OTEL_PYTHON_QUEUE_BRIDGE_CHILD_EXPORT" in os.environ:  # `own` does not survive the kill
        trace.get_tracer_provider().force_flush()
    with tracer.start_as_current_span("open"):
        killed()


def deletes_itself() -> None:
    get_current_job().delete()
    killed()


def exits_well() -> None:
    os._exit(0)


def submits() -> None:
    queue.enqueue(f"{APP}.submitted")


def submitted() -> None:
    pass


OPTIONS: dict[str, dict[str, Any]] = {
    "retry": {"retry": Retry(max=1)},
    "retry_later": {"retry": Retry(max=1, interval=1)},
    "last_retry": {"retry": Retry(max=1)},
    "too_long": {"job_timeout": 1},
    "killed_and_retried": {"retry": Retry(max=1)},
    "killed_and_retried_later": {"retry": Retry(max=1, interval=1)},
    "stopped": {"retry": Retry(max=1)},  # RQ does not retry it
    "stopped_execution": {"retry": Retry(max=1)},
    "undone": {"retry": Retry(max=1)},
    "gate_retried": {"retry": Retry(max=1)},
    "forgotten": {"result_ttl": 0},
    "callback_fails": {"on_success": Callback(f"{APP}.fail_in_callback")},
}
if Repeat is not None:
    OPTIONS["repeat"] = {"repeat": Repeat(times=1)}
    OPTIONS["repeat_later"] = {"repeat": Repeat(times=1, interval=1)}


class ForRQ2(Worker):
    def perform_job(self, job: Any, queue: Any) -> Any:
        return super().perform_job(job, queue)


class Overriding(HerokuWorker):
    """A user's worker, whose methods call those of the library."""

    def execute_job(self, job: Any, *args: Any, **kwargs: Any) -> Any:
        return super().execute_job(job, *args, **kwargs)

    def fork_work_horse(self, job: Any, *args: Any, **kwargs: Any) -> Any:
        return super().fork_work_horse(job, *args, **kwargs)

    def perform_job(self, job: Any, *args: Any, **kwargs: Any) -> Any:
        return super().perform_job(job, *args, **kwargs)

    def handle_job_failure(self, job: Any, *args: Any, **kwargs: Any) -> Any:
        if self.is_horse and job.func_name.endswith("undone"):
            raise ConnectionError
        return super().handle_job_failure(job, *args, **kwargs)

    def handle_exception(self, job: Any, *exc_info: Any) -> Any:
        return super().handle_exception(job, *exc_info)


class Watching(Worker):
    """It watches its work-horses in its own way, and tells RQ only that one has failed."""

    def monitor_work_horse(self, job: Any, queue: Any, *_: Any) -> None:
        if os.environ["APP_WAIT"] == "rq":
            self.wait_for_horse()
        else:
            os.waitpid(self.horse_pid, 0)
        self._horse_pid = 0
        self.handle_job_failure(job, queue=queue, exc_string="It is gone.")


class Impatient(HerokuWorker):
    imminent_shutdown_delay = 0


def submit(name: str, *arguments: Any) -> None:
    queue.enqueue(f"{APP}.{name}", *arguments, **OPTIONS.get(name, {}))


def main() -> None:
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        for name, *arguments in json.loads(line):
            submit(name, *arguments)
        print(json.dumps("done"), flush=True)
