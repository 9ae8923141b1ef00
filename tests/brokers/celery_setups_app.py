"""A user's Celery app that sets up the SDK and the instrumentation where the test wants it."""

import json
import os
import signal
from collections.abc import Callable

from celery import Celery, chord, signals
from opentelemetry import trace

import otel_queue_bridge
from tests.brokers.sdk import set_up

app = Celery("app", broker=os.environ["APP_BROKER"])
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    beat_schedule={"often": {"task": "inner", "schedule": 0.2}},
    beat_schedule_filename=os.environ.get("APP_SCHEDULE", ""),
    **json.loads(os.environ.get("APP_CONF", "{}")),
)


def at(moment: str, action: Callable[[], object]) -> None:
    """Do it now, or when Celery sends the signal of this name."""
    if moment == "import":
        action()
    elif moment:
        getattr(signals, moment).connect(lambda **_: action(), weak=False)


at(os.environ.get("APP_SDK", ""), set_up)
at(os.environ.get("APP_INSTRUMENT", ""), lambda: otel_queue_bridge.instrument("celery"))


@app.task(name="inner")
def inner() -> None:
    pass


@app.task(name="many")
def many(spans: int) -> None:
    for _ in range(spans):
        with trace.get_tracer("user").start_as_current_span("user"):
            pass


@app.task(name="die", ignore_result=False)  # else a chord would not hear of it
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="link_error")
def link_error() -> None:
    die.apply_async(link_error=inner.si())


@app.task(name="chord")
def in_chord() -> None:
    chord([many.si(0), die.si()], many.si(0).on_error(inner.si())).apply_async()


@signals.task_failure.connect(sender=die)
def failed(**_: object) -> None:
    trace.get_tracer("user").start_span("task failure").end()


@app.task(name="later")
def later() -> None:
    inner.apply_async(countdown=3)


@app.task(name="outer")
def outer() -> None:
    with trace.get_tracer("user").start_as_current_span("user"):
        inner.delay()
