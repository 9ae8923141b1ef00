"""A user's Dramatiq app with a case for each way that a message can go; also sends them.

Each case has its own actors, so that its spans and counts stay apart from those of the others.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.broker import MessageProxy
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import RateLimitExceeded, Retry
from dramatiq.middleware import (
    AsyncIO,
    CurrentMessage,
    GroupCallbacks,
    Interrupt,
    Middleware,
    SkipMessage,
)
from dramatiq.middleware.shutdown import Shutdown
from dramatiq.rate_limits.backends import RedisBackend
from opentelemetry import trace

from tests.brokers.shop import SECRET

tracer = trace.get_tracer("user")
Submit = Callable[[], object]
submits: dict[str, Submit] = {}
"""How each case is sent."""


class Abort(Interrupt):
    """Stands in for the one of dramatiq-abort, which we recognise by its name."""

    __module__ = "dramatiq_abort.abort_manager"
    __qualname__ = "Abort"


class Choosy(Middleware):
    """Skips some messages, and fails others."""

    def before_process_message(self, broker: dramatiq.Broker, message: MessageProxy) -> None:
        if message.actor_name == "skipped":
            raise SkipMessage(SECRET)
        if message.actor_name == "failed by a middleware":
            message.fail()


def make_broker(url: str) -> dramatiq.Broker:
    if url.startswith("amqp"):
        return RabbitmqBroker(url=url)
    # Only maintenance brings back messages that a stopped worker fetched but never looked at.
    return RedisBroker(url=url, heartbeat_timeout=10_000, maintenance_chance=1_000_000)


broker = make_broker(os.environ["APP_BROKER"])
for middleware in (CurrentMessage(), Choosy(), AsyncIO()):
    broker.add_middleware(middleware)
if "APP_REDIS" in os.environ:
    broker.add_middleware(GroupCallbacks(RedisBackend(url=os.environ["APP_REDIS"])))
dramatiq.set_broker(broker)


def note(*words: object) -> None:
    """Report to the test, without telemetry, that an actor has run: one write per line."""
    with Path(os.environ["APP_NOTES"]).open("a") as file:
        file.write(json.dumps(words) + "\n")


def message() -> Any:
    return CurrentMessage.get_current_message()


def again() -> bool:
    return bool(message().options.get("retries"))


def actor(function: Callable[..., Any], name: str, **options: Any) -> Any:
    return dramatiq.actor(function, actor_name=name, min_backoff=1, **options)


def case(name: str, **send: Any) -> Callable[[Callable[..., Any]], Any]:
    """Turn a function into an actor, and a message for it, with these options, into a case."""
    options = send.pop("actor", {})

    def make(function: Callable[..., Any]) -> Any:
        made = actor(function, name, **options)
        submits[name] = lambda: made.send_with_options(**send)
        return made

    return make


def then(name: str) -> Any:
    """Make an actor whose messages other actors send."""
    return actor(lambda *_: None, name)


@case("success", args=(SECRET,))
def succeed(secret: str) -> None:
    with tracer.start_as_current_span("work"):
        pass


@case("async success")
async def succeed_async() -> None:
    await asyncio.sleep(0)
    with tracer.start_as_current_span("work"):
        await asyncio.sleep(0)


@case("delayed", delay=300)
def delayed() -> None:
    pass


@case("retry after an error")
def recover() -> None:
    if not again():
        raise ValueError


@case("retry after an error, async")
async def recover_async() -> None:
    if not again():
        raise ValueError


@case("retry asked for")
def ask() -> None:
    if not again():
        raise Retry(delay=1)


@case("rate limit exceeded")
def limited() -> None:
    if not again():
        raise RateLimitExceeded("not now")


@case("shut down")
def shut_down() -> None:
    if not again():
        raise Shutdown


@case("retries exhausted", actor={"max_retries": 0})
def exhaust() -> None:
    raise ValueError


@case("retry asked for in vain", actor={"max_retries": 0})
def ask_in_vain() -> None:
    raise Retry


@case("failure by an option of the message", max_retries=1)
def fail() -> None:
    raise ValueError


@case("expected failure", actor={"throws": (KeyError,)})
def expected() -> None:
    raise KeyError


@case("exit", actor={"max_retries": 0})
def leave() -> None:
    raise SystemExit


@case("skipped")
def skipped() -> None:
    note("never")


@case("failed by a middleware")
def failed() -> None:
    note("never")


@case("too old", max_age=1, delay=50)
def too_old() -> None:
    note("never")


@case("aborted", actor={"max_retries": 0})
def aborted() -> None:
    raise Abort


@case("aborted and retried")
def aborted_once() -> None:
    if not again():
        raise Abort


@case("time limit", time_limit=1, actor={"max_retries": 0})
def hang() -> None:
    while True:
        time.sleep(0.01)


@case("time limit, async", time_limit=1, actor={"max_retries": 0})
async def hang_async() -> None:
    await asyncio.sleep(60)


@case("callback of the actor", actor={"on_success": "callback of the actor: then"})
def call_back() -> None:
    pass


@case("callback of the message", on_success=then("callback of the message: then"))
def call_back_once() -> None:
    pass


@case(
    "callback of a failure",
    actor={"on_failure": "callback of a failure: then", "max_retries": 0},
)
def call_back_failing() -> None:
    raise ValueError


if "on_retry_exhausted" in broker.actor_options:  # since Dramatiq 1.18

    @case(
        "callback of exhausted retries",
        actor={"on_retry_exhausted": "callback of exhausted retries: then", "max_retries": 0},
    )
    def call_back_exhausted() -> None:
        raise ValueError


for name in (
    "callback of the actor",
    "callback of a failure",
    "callback of exhausted retries",
    "pipeline",
    "group",
):
    then(f"{name}: then")


@dramatiq.actor(actor_name="pipeline")
def pipe() -> str:
    return SECRET


pipe_last = then("pipeline: last")


@case("unencodable")
def unencodable(_: object) -> None:
    note("never")


@dramatiq.actor(actor_name="group")
def one_of_group() -> None:
    pass


other_of_group = then("group: other")


def submit_pipeline() -> None:
    middle = broker.get_actor("pipeline: then").message_with_options(delay=10)
    (pipe.message() | middle | pipe_last.message()).run()


def submit_group() -> None:
    group = dramatiq.group([one_of_group.message(), other_of_group.message()])
    group.add_completion_callback(broker.get_actor("group: then").message())
    group.run()


submits["pipeline"] = submit_pipeline
submits["group"] = submit_group
submits["unknown"] = lambda: broker.enqueue(dramatiq.Message("default", "unknown", (), {}, {}))
submits["unencodable"] = lambda: unencodable.send(object())


@dramatiq.actor(actor_name="ok")
def ok() -> None:
    note("ok", message().message_id)


@dramatiq.actor(actor_name="gate")
def gate() -> None:
    """Run until the test opens the gate."""
    note("gate", message().message_id)
    while not Path(os.environ["APP_GATE"]).exists():
        time.sleep(0.01)
    note("passed", message().message_id)


@dramatiq.actor(actor_name="notified", notify_shutdown=True, min_backoff=1)
def notified() -> None:
    """Run until the worker is told to stop."""
    if again():
        note("passed", message().message_id)
        return
    note("gate", message().message_id)
    while True:
        time.sleep(0.01)


def send(name: str, count: int = 1, **options: Any) -> None:
    for _ in range(count):
        broker.get_actor(name).send_with_options(**options)


def main() -> None:
    given = json.loads(sys.argv[1])
    if isinstance(given, list):  # cases, each in a separate trace
        for name in given:
            with tracer.start_as_current_span("caller"):
                try:
                    submits[name]()
                except TypeError as error:
                    note(name, type(error).__name__)
    else:
        for name, options in given.items():
            send(name, **options)


if __name__ == "__main__":
    main()
