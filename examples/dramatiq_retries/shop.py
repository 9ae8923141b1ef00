"""A Dramatiq app with a task that fails twice; nothing in it is about tracing."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import CurrentMessage

broker = RedisBroker(url=os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
broker.add_middleware(CurrentMessage())
dramatiq.set_broker(broker)


@dramatiq.actor(max_retries=3, min_backoff=100, max_backoff=200)  # ms
def charge(order):
    attempt = 1 + CurrentMessage.get_current_message().options.get("retries", 0)
    if attempt < 3:  # noqa: PLR2004
        raise ConnectionError("the bank does not answer")
    print(f"order {order} is paid, at attempt {attempt}")


if __name__ == "__main__":
    charge.send(7)
