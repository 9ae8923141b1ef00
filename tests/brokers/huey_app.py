"""A user's Huey app with a case for each way that a task can go; also submits them.

No two cases share a task, so that the spans and counts of each stay apart.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huey import (
    CancelExecution,
    FileHuey,
    Huey,
    PriorityRedisHuey,
    RedisHuey,
    RetryTask,
    SqliteHuey,
    chord,
    crontab,
    group,
)
from huey.consumer import Scheduler
from huey.serializer import Serializer, SignedSerializer
from opentelemetry import trace

from tests.brokers.shop import SECRET

tracer = trace.get_tracer("user")
Submit = Callable[[], object]
submits: dict[str, Submit] = {}
"""How each case is submitted."""


def make_serializer(kind: str) -> Serializer:
    compression = "gzip" in kind
    return (
        SignedSerializer(secret=SECRET, compression=compression)
        if "signed" in kind
        else Serializer(compression=compression)
    )


def make_huey(broker: str, serializer: Serializer) -> Huey:
    scheme, _, path = broker.partition(":")
    if scheme == "redis":
        kind = PriorityRedisHuey if "APP_PRIORITIES" in os.environ else RedisHuey
        return kind("shop", url=broker, serializer=serializer)
    if scheme == "file":
        return FileHuey("shop", path=path, serializer=serializer)
    return SqliteHuey("shop", filename=path, serializer=serializer)


huey = make_huey(os.environ["APP_BROKER"], make_serializer(os.environ.get("APP_SERIALIZER", "")))
Scheduler.periodic_task_seconds = 2
"""In the consumer: it is a minute otherwise."""


def note(*words: object) -> None:
    """Report to the test, without telemetry, that a task has run: one write per line."""
    with Path(os.environ["APP_NOTES"]).open("a") as file:
        file.write(json.dumps(words) + "\n")


def again(task: Any) -> bool:
    """Tell whether the task runs once more, in whichever process."""
    return not huey.put_if_empty(f"ran:{task.id}", "1")


def register(function: Callable[..., Any], name: str, **options: Any) -> Any:
    return huey.task(name=name, **options)(function)


def case(
    name: str, submit: Callable[[Any], object] | None = None, **options: Any
) -> Callable[[Callable[..., Any]], Any]:
    """Make a task of a function, and of the ways in which it is submitted a case."""

    def make(function: Callable[..., Any]) -> Any:
        task = register(function, name, **options)
        submits[name] = (lambda: submit(task)) if submit else task
        return task

    return make


def then(name: str) -> Any:
    return register(lambda *_: None, name)


@case("success", lambda task: task(SECRET))
def succeed(secret: str) -> str:
    with tracer.start_as_current_span("work"):
        return secret


@case("delayed", lambda task: task.schedule(delay=1))
def delayed() -> None:
    pass


@case("far", lambda task: task.schedule(delay=1000))
def far() -> None:
    pass


@case("failure")
def fail() -> None:
    raise ValueError


@case("retry", context=True, retries=1)
def recover(task: Any) -> None:
    if not again(task):
        raise ValueError


@case("retry later", context=True, retries=1, retry_delay=1)
def recover_later(task: Any) -> None:
    if not again(task):
        raise ValueError


@case("retry in vain", retries=1)
def exhaust() -> None:
    raise ValueError


@case("retry asked for", context=True)
def ask(task: Any) -> None:
    if not again(task):
        raise RetryTask


@case("retry asked for later", context=True)
def ask_later(task: Any) -> None:
    if not again(task):
        raise RetryTask(delay=0.5)


@case("canceled")
def cancel() -> None:
    raise CancelExecution


@case("canceled and retried", context=True)
def cancel_once(task: Any) -> None:
    if not again(task):
        raise CancelExecution(retry=True)


@case("canceled before")
def never() -> None:
    note("never")


@huey.pre_execute()
def choose(task: Any) -> None:
    if task.name == "canceled before":
        raise CancelExecution


@case("exit")
def leave() -> None:
    raise SystemExit


@case("locked")
def locked() -> None:
    with huey.lock_task("one"), huey.lock_task("one"):
        note("never")


@case("locked and retried", context=True, retries=1)
def locked_once(task: Any) -> None:
    if not again(task):
        with huey.lock_task("other"), huey.lock_task("other"):
            note("never")


@case("rate limited", context=True)
def limited_once(task: Any) -> None:
    if not again(task):
        with huey.rate_limit("one", limit=0, per=1):
            note("never")


@case("rate limited in vain")
def limited() -> None:
    with huey.rate_limit("other", limit=0, per=1, retry=False):
        note("never")


@case("timeout", context=True, timeout=0.2)
def hang(task: Any) -> None:
    while True:
        time.sleep(0.01)
        if os.environ["APP_WORKERS"] == "thread":  # there only the task itself can look
            task.check_timeout()


@case("timeout and retried", context=True, timeout=0.2, retries=1)
def hang_once(task: Any) -> None:
    while not again(task):
        time.sleep(0.3)
        if os.environ["APP_WORKERS"] == "thread":
            task.check_timeout()


@case("expired", lambda task: huey.enqueue(task.s(expires=-1)))
def expired() -> None:
    note("never")


def revoke_before(task: Any) -> None:
    made = task.s()
    huey.revoke(made)
    huey.enqueue(made)


@case("revoked", revoke_before)
def revoked() -> None:
    note("never")


@case("unencodable", lambda task: task(threading.Lock()))
def unencodable(_: object) -> None:
    note("never")


@case("on error", lambda task: huey.enqueue(task.s().error(handler)))
def call_back() -> None:
    raise ValueError


handler = then("on error: then")


for name in ("pipeline", "group", "chord", "chord with a failure", "chord with one revoked"):
    register(lambda *_: SECRET, name)
    then(f"{name}: then")
then("pipeline: last")
register(fail.func, "chord with a failure: fails")


def registered(name: str) -> Any:
    """Return what makes tasks of this name."""
    return huey._registry.string_to_task(f"{__name__}.{name}")  # noqa: SLF001


def submit_pipeline() -> None:
    first, middle, last = (registered(f"pipeline{end}")() for end in ("", ": then", ": last"))
    huey.enqueue(first.then(middle).then(last))


def submit_group() -> None:
    huey.enqueue(group([registered("group")(), registered("group")()]))


def submit_chord(name: str, other: str) -> None:
    members = [registered(name)(), registered(f"{name}{other}")()]
    if name.endswith("revoked"):
        members[0].eta = huey._get_timestamp()  # noqa: SLF001
        huey.revoke(members[0])
    huey.enqueue(chord(members, registered(f"{name}: then")()))


submits["pipeline"] = submit_pipeline
submits["group"] = submit_group
submits["chord"] = lambda: submit_chord("chord", "")
submits["chord with a failure"] = lambda: submit_chord("chord with a failure", ": fails")
submits["chord with one revoked"] = lambda: submit_chord("chord with one revoked", "")


def submit_unknown() -> None:
    register(lambda: None, "unknown")()


submits["unknown"] = submit_unknown


@huey.periodic_task(crontab(), name="periodic")
def periodic() -> None:
    pass


@huey.task(name="ok", context=True)
def ok(task: Any) -> None:
    note("ok", task.id)


@huey.task(name="gate", context=True)
def gate(task: Any) -> None:
    """Run until the test opens the gate."""
    note("gate", task.id, os.getpid())
    while not Path(os.environ["APP_GATE"]).exists():
        time.sleep(0.01)
    note("passed", task.id)


def main() -> None:
    for name in json.loads(sys.argv[1]):
        submit = submits.get(name) or globals()[name]
        with tracer.start_as_current_span("caller"):
            try:
                submit()
            except Exception as error:  # noqa: BLE001 - some cases are meant to fail
                note(name, type(error).__name__)
