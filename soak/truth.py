"""What really happened, as the tasks and those who submit them write it down themselves.

Everything is a line that is appended at once, so that a kill loses none that was written.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

FOLDER, SERVICE = "SOAK_FOLDER", "SOAK_SERVICE"


@dataclass(frozen=True)
class Submission:
    key: str
    """The task's load and number."""
    name: str
    id: str
    """The library's id of the task."""
    service: str
    """The process that has submitted it."""
    counted: bool
    """Whether that process was instrumented."""


@dataclass
class Attempt:
    key: str
    pid: int
    service: str
    how: str = ""
    """OK, the name of the exception's type, or empty if it has not come to its end."""


OK = "ok"


class Truth:
    def __init__(self, folder: Path) -> None:
        self._attempts = folder / "attempts"
        self._submissions = folder / "submissions"
        self._attempts.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of_this_process(cls) -> Self:
        return cls(Path(os.environ[FOLDER]))

    def submitted(self, key: str, name: str, id: str, *, counted: bool = True) -> None:  # noqa: A002
        _append(self._submissions, [key, name, id, os.environ[SERVICE], counted])

    def began(self, key: str) -> int:
        """Return the number of this attempt; 1 is the first."""
        _append(self._attempts / key, [os.getpid(), os.environ[SERVICE]])
        return len(self.attempts(key))

    def ended(self, key: str, number: int, how: str) -> None:
        _append(self._attempts / key, [number, how, "ended"])

    def submissions(self) -> list[Submission]:
        return [Submission(*line) for line in _lines(self._submissions)]

    def attempts(self, key: str) -> list[Attempt]:
        """Return the attempts of a task in the order in which they began."""
        found: list[Attempt] = []
        ends: dict[int, str] = {}
        for line in _lines(self._attempts / key):
            match line:
                case [int(pid), str(service)]:
                    found.append(Attempt(key, pid, service))
                case [int(number), str(how), _]:
                    ends[number] = how
        for number, how in ends.items():
            found[number - 1].how = how
        return found

    def hows(self) -> dict[str, list[str]]:
        """Return how the attempts of every task have ended."""
        keys = sorted(file.name for file in self._attempts.iterdir())
        return {key: [attempt.how for attempt in self.attempts(key)] for key in keys}


def _append(file: Path, line: list[object]) -> None:
    with file.open("ab", buffering=0) as opened:
        opened.write(json.dumps(line).encode() + b"\n")


def _lines(file: Path) -> list[list[object]]:
    if not file.exists():
        return []
    # A line may be half written while we read.
    return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]
