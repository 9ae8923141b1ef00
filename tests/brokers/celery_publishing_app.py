"""A user's Celery app, and every way to publish; as a script it publishes in the named ways."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from celery import Celery, Task, chain, chord, group
from kombu import Exchange, Queue
from opentelemetry import baggage, context, trace

from tests.brokers.shop import SECRET

BROKER = os.environ["APP_BROKER"]

app = Celery("app", broker=BROKER, backend=BROKER if BROKER.startswith("redis") else None)
app.conf.update(
    task_publish_retry=False,
    broker_connection_retry_on_startup=True,
    worker_log_format="%(name)s %(levelname)s %(message)s",
    task_queue_max_priority=9,
    task_queues=[
        Queue("celery", Exchange("celery"), "celery"),
        Queue("mail", Exchange("events", type="topic"), "mail.#"),
    ],
    beat_schedule={"every second": {"task": "tick", "schedule": 1.0}},
)
if BROKER.startswith("amqp"):
    app.conf.broker_transport_options = {"confirm_publish": True}


def note(*words: object) -> None:
    with Path(os.environ["APP_NOTES"]).open("a") as file:
        file.write(json.dumps(words) + "\n")


@app.task(name="a")
def a(*args: str, **kwargs: str) -> str:
    return SECRET


@app.task(name="b")
def b(*args: str) -> str:
    return SECRET


@app.task(name="c")
def c(*args: str) -> str:
    return SECRET


@app.task(name="tick")
def tick() -> None:
    pass


@app.task(name="fails")
def fails() -> None:
    raise ValueError


@app.task(name="errback")
def errback(task_id: str) -> None:
    pass


@app.task(bind=True, name="replaces")
def replaces(self: Task) -> None:
    raise self.replace(a.s())


@app.task(name="nests")
def nests() -> None:
    b.delay()


@app.task(bind=True, name="retries", default_retry_delay=0)
def retries(self: Task) -> None:
    if self.request.retries == 0:
        raise self.retry()


@app.task(bind=True, name="tells", default_retry_delay=0)
def tells(self: Task) -> None:
    request = self.request
    note(request.retries, request.headers, request.stamped_headers, request.stamps)
    if request.retries < 2:
        raise self.retry()


def eagerly() -> None:
    app.conf.task_always_eager = True
    a.delay()
    app.conf.task_always_eager = False


def stamped() -> None:
    signature = tells.s()
    signature.stamp(mine="x")
    token = context.attach(baggage.set_baggage("who", "me"))
    signature.apply_async(headers={"x-mine": "1"})
    context.detach(token)


def elsewhere() -> None:
    """Publish through a second app of this process."""
    other = Celery("other", broker=BROKER)
    other.send_task("a")
    b.delay()


def late() -> None:
    """Publish before anything is instrumented, and after."""
    import otel_queue_bridge

    a.delay()
    otel_queue_bridge.instrument("celery")
    b.delay()


WAYS: dict[str, Any] = {
    "delay": lambda: a.delay(SECRET, word=SECRET),
    "apply_async": lambda: a.apply_async([SECRET], {"word": SECRET}, priority=3),
    "without result": lambda: a.apply_async([SECRET], ignore_result=True),
    "send_task": lambda: app.send_task("a", [SECRET]),
    "chain": lambda: chain(a.s(SECRET), b.s(), c.s()).delay(),
    "group": lambda: group(a.s(SECRET), b.s()).delay(),
    "chord": lambda: chord([a.s(), b.s()], c.s()).delay(),
    "link": lambda: a.apply_async(link=b.s()),
    "link_error": lambda: fails.apply_async(link_error=errback.s()),
    "replace": replaces.delay,
    "apply": lambda: a.apply([SECRET]),
    "retry in apply": retries.apply,
    "nested in apply": nests.apply,
    "always eager": eagerly,
    "stamps": stamped,
    "another app": elsewhere,
    "late": late,
    "routed to a queue": lambda: a.apply_async(queue="mail"),
    "retried from a queue": lambda: retries.apply_async(queue="mail"),
    "routed by a key": lambda: a.apply_async(exchange="events", routing_key="mail.welcome"),
}


if __name__ == "__main__":
    for way in sys.argv[1:]:
        with trace.get_tracer("user").start_as_current_span(way):
            WAYS[way]()
