"""The tasks of the contract, the same for every queue; an app registers them with its library.

    for function in tasks.functions(current=the_running_tasks_id, submit=submit):
        queue.task(function, retries=int(function.__name__ in tasks.RETRIED))

    def submit(task, *args, delay=0, cancelled=False, schedule="", **kwargs):
        return queue.send(task, args, kwargs).id

`delay` is a planned start in so many seconds. What is `cancelled` reaches a worker, and is not to
run: it has expired, say. What has a `schedule` is submitted once by a schedule of that name, as the
library itself would do when the time has come. All are passed only in rows that need them.
"""

from __future__ import annotations

import logging
import os
import time
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage, trace

if TYPE_CHECKING:
    from collections.abc import Callable

BROKER = os.environ.get("CONTRACT_BROKER", "")
"""Where the broker is, as the test's `Library` has it."""
UNREACHABLE = os.environ.get("CONTRACT_MODE") == "unreachable"
"""Whether nobody listens there: the submit is to raise, and soon."""
FOLDER = Path(os.environ.get("CONTRACT_FOLDER", "."))
RAN = FOLDER / "ran"
RETRIED = frozenset({"retry", "retried"})
"""The tasks that fail at first, and that the library has to try once more, soon."""


class BoomError(Exception):
    """Raised by a task that fails."""


def functions(
    current: Callable[[], str], submit: Callable[[str], object]
) -> list[Callable[..., Any]]:
    """Return the tasks; each notes that it has run, under the id that `current` returns."""

    def nested() -> None:
        submit("ok")

    def again() -> None:
        if RAN.read_text().split().count(current()) == 1:
            raise BoomError("not yet")

    bodies: dict[str, Callable[..., Any]] = {
        **dict.fromkeys(
            ("ok", "counted", "excluded", "waiting", "shared", "cancelled", "undone", "linked"),
            _nothing,
        ),
        **dict.fromkeys(("fail", "failing"), _fail),
        **dict.fromkeys(sorted(RETRIED), again),
        "span": _span,
        "slow": _slow,
        "echo": _echo,
        "keywords": _keywords,
        "held": _held,
        "nested": nested,
    }
    return [_noting(name, body, current) for name, body in bodies.items()]


def _noting(name: str, body: Callable[..., Any], current: Callable[[], str]) -> Callable[..., Any]:
    @wraps(body)
    def task(*args: Any, **kwargs: Any) -> Any:
        with RAN.open("a") as file:  # one line, written at once
            file.write(f"{current()}\n")
        return body(*args, **kwargs)

    task.__name__ = task.__qualname__ = name
    return task


def _nothing() -> None:
    pass


def _fail() -> None:
    raise BoomError("it failed")


def _span() -> None:
    with trace.get_tracer("user").start_as_current_span("inner") as inner:
        inner.set_attribute("user", str(baggage.get_baggage("user")))
        record = logging.getLogger("user").makeRecord("user", logging.INFO, "", 0, "", (), None)
        inner.set_attribute("logged", getattr(record, "otelTraceID", ""))


def _slow() -> None:
    time.sleep(0.5)


def _echo(shown: str, hidden: str) -> str:
    return shown + hidden


def _keywords(**arguments: str) -> None:
    if arguments.keys() != {"shown", "hidden"}:
        raise TypeError(f"called with {sorted(arguments)}")


def _held(gate: str) -> None:
    while not (FOLDER / gate).exists():
        time.sleep(0.02)
