"""The contract's tasks on Dramatiq."""

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import CurrentMessage

from otel_queue_bridge.testing import tasks

kind = RabbitmqBroker if tasks.BROKER.startswith("amqp") else RedisBroker
broker = kind(url=tasks.BROKER)
broker.add_middleware(CurrentMessage())
dramatiq.set_broker(broker)


def submit(name: str, *args: str, delay: float = 0, cancelled: bool = False, **kwargs: str) -> str:
    actor = broker.get_actor(name)
    options = {"delay": int(delay * 1000) or None, **({"max_age": -1} if cancelled else {})}
    return str(actor.send_with_options(args=args, kwargs=kwargs, **options).message_id)


for function in tasks.functions(
    current=lambda: CurrentMessage.get_current_message().message_id, submit=submit
):
    name = function.__name__
    dramatiq.actor(function, actor_name=name, max_retries=int(name in tasks.RETRIED), min_backoff=1)
