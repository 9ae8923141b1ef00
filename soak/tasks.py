"""The tasks, the same for every queue: a name for each way in which a task can go.

An app registers what `functions` returns with its library, and has `submit(name, key)`.
"""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING, Any

from soak import switch
from soak.truth import OK, Truth

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

BROKER = os.environ.get("SOAK_BROKER", "")

RETRIED = frozenset({"again", "never"})
"""The tasks that the library has to try once more."""
KILLED = "killed"
"""The task whose process is killed."""
NESTED = ("0", "1")
"""What is added to the key of a task, for those that it submits."""
_WEIGHTS = {"ok": 6, "fail": 2, "again": 2, "never": 1, "expected": 1, KILLED: 1, "nest": 2}
SLOW = "slow"
_NAP = 0.1  # seconds; long enough for faults to find it running


class BoomError(Exception):
    """Raised by a task that fails."""


class ExpectedError(Exception):
    """Raised by a task whose failure is expected, where the library knows of such."""


def mix(seed: int, phase: str, number: int, lacks: Iterable[str]) -> list[tuple[str, str]]:
    """Return so many tasks by name and key, or more: one of each kind that the queue has."""
    # Not the hash of a tuple: it differs from process to process.
    chance = random.Random(f"{seed} {phase}")
    weights = {n: w for n, w in {**_WEIGHTS, SLOW: 2}.items() if n not in lacks}
    more = chance.choices([*weights], [*weights.values()], k=max(0, number - len(weights)))
    names = [*weights, *more]
    chance.shuffle(names)
    return [(name, f"{phase}{at}") for at, name in enumerate(names)]


def all_keys(tasks: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the name of each task by its key, with those that tasks submit."""
    found = {key: name for name, key in tasks}
    nested = {
        f"{key}-{end}": "ok" for key, name in found.items() if name == "nest" for end in NESTED
    }
    return found | nested


def without_nested(keys: Collection[str]) -> list[str]:
    """Leave out the tasks that another of these would have submitted."""
    return [key for key in keys if "-" not in key or key.partition("-")[0] not in keys]


def planned(name: str) -> list[str]:
    """Return how the attempts of a task end, if nothing comes between."""
    boom = BoomError.__name__
    return {
        "fail": [boom],
        "again": [boom, OK],
        "never": [boom, boom],
        "expected": [ExpectedError.__name__],
        KILLED: [""],
    }.get(name, [OK])


def functions(submit: Callable[[str, str], str]) -> list[Callable[[str], Any]]:
    switch.watch()
    truth = Truth.of_this_process()

    def nest(key: str, _: int) -> None:
        for end in NESTED:
            truth.submitted(f"{key}-{end}", "ok", submit("ok", f"{key}-{end}"))

    bodies: dict[str, Callable[[str, int], None]] = {
        "ok": lambda *_: None,
        "fail": _fail,
        "again": _again,
        "never": _fail,
        "expected": _expected,
        KILLED: _killed,
        "nest": nest,
        SLOW: lambda *_: time.sleep(_NAP),
    }
    return [_noting(name, body, truth) for name, body in bodies.items()]


def _noting(name: str, body: Callable[[str, int], None], truth: Truth) -> Callable[[str], Any]:
    def task(key: str) -> None:
        number = truth.began(key)
        try:
            body(key, number)
        except BaseException as error:
            truth.ended(key, number, type(error).__name__)
            raise
        truth.ended(key, number, OK)

    task.__name__ = task.__qualname__ = name
    return task


def _fail(*_: object) -> None:
    raise BoomError("it failed")


def _again(_: str, number: int) -> None:
    if number == 1:
        raise BoomError("not yet")


def _expected(*_: object) -> None:
    raise ExpectedError("as expected")


def _killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
