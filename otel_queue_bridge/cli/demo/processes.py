"""Start the demo's processes, wait until they say that they are ready, and stop them all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import IO, TYPE_CHECKING, cast

from otel_queue_bridge.cli import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

_LAUNCH = Path(__file__).with_name("launch.py")
_TAIL = 15
"""How many lines of its output are shown if a process fails."""


@dataclass(frozen=True, slots=True)
class Participant:
    """One process of the demo, and how it says that it is ready."""

    name: str
    """It is also its service name."""
    module: str
    """The module that `python -m` runs."""
    arguments: tuple[str, ...]
    """In these, `$NAME` stands for a variable of its environment."""
    ready: str
    """Regular expression for its line that says it is ready; group 1, if any, is its address."""
    instrumented: bool = True
    """Whether it runs under `opentelemetry-instrument`."""

    @property
    def shown(self) -> str:
        """The command as a user would type it."""
        prefix = ["opentelemetry-instrument"] if self.instrumented else []
        command = self.module.removesuffix(".cli").rpartition(".")[2]
        return " ".join([*prefix, command, *self.arguments])

    def expanded(self, environment: Mapping[str, str]) -> Participant:
        arguments = (Template(argument).substitute(environment) for argument in self.arguments)
        return replace(self, arguments=tuple(arguments))


class Process:
    """One running participant; all that it started ends with its `with` block."""

    def __init__(
        self, participant: Participant, environment: Mapping[str, str], folder: str
    ) -> None:
        self.participant = participant
        self.address = ""
        self._environment = environment
        self._folder = folder
        self._news = threading.Condition()
        self._ready = False
        self._ended = False
        self._output: deque[str] = deque(maxlen=_TAIL)

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", self.participant.module, *self.participant.arguments]
        if self.participant.instrumented:
            # The script opentelemetry-instrument does the same, but may be installed anywhere.
            run = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
            command = [sys.executable, "-c", run, *command]
        self._process = subprocess.Popen(  # noqa: S603 - the commands are ours
            [sys.executable, "-I", "-S", str(_LAUNCH), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**self._environment, "OTEL_SERVICE_NAME": self.participant.name},
            cwd=self._folder,
            start_new_session=True,
        )
        self._lifeline = cast("IO[str]", self._process.stdin)
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout,), daemon=True
        )
        self._reader.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._lifeline.close()
        self._process.wait()
        # The output ends when the last process of the group is gone.
        self._reader.join(timeout=5)

    def _read(self, output: IO[str]) -> None:
        with output:
            for line in output:
                with self._news:
                    self._output.append(line.rstrip())
                    if not self._ready and (found := re.search(self.participant.ready, line)):
                        self._ready = True
                        self.address = found[1] if found.lastindex else ""
                        self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def ended(self) -> bool:
        with self._news:
            return self._ended

    def tail(self) -> str:
        """Return the last lines that the process wrote."""
        with self._news:
            return "\n".join([f"--- {self.participant.name}", *self._output])

    def wait_until_ready(self, timeout: float) -> None:
        """Wait for the ready line; `CommandError` if the process ends or `timeout` seconds pass."""
        with self._news:
            self._news.wait_for(lambda: self._ready or self._ended, timeout)
            if self._ended:
                raise CommandError(f"{self.participant.name} ended instead of becoming ready")
            if not self._ready:
                raise CommandError(f"{self.participant.name} was not ready within {timeout:g} s")


def clean_environment(own: Mapping[str, str]) -> dict[str, str]:
    """Return the user's environment, less what would configure our processes, plus `own`."""
    foreign = ("OTEL_", "CELERY_", "DJANGO_", "UVICORN_", "RQ_", "ARQ_", "dramatiq_", "FASTWORKER_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {
        **inherited,
        "PYTHONUNBUFFERED": "1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        **own,
    }
