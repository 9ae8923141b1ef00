"""The contract's tasks on Dramatiq."""

import os
from collections.abc import Callable
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import CurrentMessage

from tests.contract import bodies

_url = os.environ["CONTRACT_BROKER"]
broker = RabbitmqBroker(url=_url) if _url.startswith("amqp") else RedisBroker(url=_url)
broker.add_middleware(CurrentMessage())
dramatiq.set_broker(broker)


def task(function: Callable[..., None]) -> Any:
    def run(**arguments: str) -> None:
        bodies.ran(CurrentMessage.get_current_message().message_id)
        function(**arguments)

    name = function.__name__
    return dramatiq.actor(run, actor_name=name, max_retries=int(name == "retry"), min_backoff=1)


@task
def ok() -> None:
    pass


@task
def counted() -> None:
    pass


@dramatiq.actor(max_retries=0)
def echo(shown: str, hidden: str) -> None:
    bodies.ran(CurrentMessage.get_current_message().message_id)


@task
def span() -> None:
    bodies.span()


@task
def fail() -> None:
    bodies.fail()


@task
def slow() -> None:
    bodies.slow()


@task
def retry() -> None:
    if not CurrentMessage.get_current_message().options.get("retries"):
        raise dramatiq.errors.Retry("once")


@task
def nested() -> None:
    bodies.nested(submit)


def submit(name: str, delay: float = 0, **arguments: str) -> str:
    actor = broker.get_actor(name)
    milliseconds = int(delay * 1000) or None
    return str(actor.send_with_options(kwargs=arguments, delay=milliseconds).message_id)
