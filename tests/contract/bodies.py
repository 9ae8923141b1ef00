"""What the tasks of every queue do, the same for all."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry import baggage, trace

_tracer = trace.get_tracer("user")


class BoomError(Exception):
    """What a failing task raises."""


def ran(task_id: str) -> None:
    """Leave a trace of our own of having run: one line, written at once."""
    with Path(os.environ["CONTRACT_RAN"]).open("a") as file:
        file.write(f"{task_id}\n")


def span() -> None:
    with _tracer.start_as_current_span("inner") as inner:
        inner.set_attribute("user", str(baggage.get_baggage("user")))
        record = logging.getLogger("user").makeRecord("user", logging.INFO, "", 0, "", (), None)
        inner.set_attribute("logged", getattr(record, "otelTraceID", ""))


def fail() -> None:
    raise BoomError("it failed")


def slow() -> None:
    # A body of some length, to hold the dispatch's against it.
    time.sleep(0.5)


def nested(submit: Callable[[str], str]) -> None:
    submit("ok")
