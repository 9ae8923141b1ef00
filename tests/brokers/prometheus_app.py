"""A user's tasks for workers of several processes, which Prometheus scrapes; also submits them."""

import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from prometheus_client import start_http_server
from redis import Redis
from rq import Queue, Worker

URL = os.environ["APP_BROKER"]
PORTS = [int(port) for port in os.environ["APP_PORTS"].split(",") if port]


def serve() -> None:
    for port in PORTS:
        try:
            start_http_server(port, "127.0.0.1")
        except OSError:  # another worker has it
            continue
        return


class Serve(dramatiq.Middleware):
    def after_process_boot(self, broker: dramatiq.Broker) -> None:
        serve()


broker = RedisBroker(url=URL)
broker.add_middleware(Serve())
dramatiq.set_broker(broker)


class ServingWorker(Worker):
    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        serve()


@dramatiq.actor(actor_name="task")
def in_dramatiq() -> None:
    pass


def in_rq() -> None:
    pass


def main(system: str, number: int) -> None:
    queue = Queue(connection=Redis.from_url(URL))
    for _ in range(number):
        if system == "rq":
            queue.enqueue(f"{__spec__.name}.in_rq")
        else:
            in_dramatiq.send()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
