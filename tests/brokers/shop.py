"""A user's Celery app as real processes, and their spans as paths."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from otel_queue_bridge.otlp import Receiver, Span
from tests.servers import LIMIT, Process, Processes, otel_env

ROOT = Path(__file__).parents[2]
SECRET = "swordfish"  # noqa: S105
"""Tasks get and return this; it must not be in the telemetry."""

Notes = list[list[Any]]


class Shop:
    """A user's app under `opentelemetry-instrument`, on one broker."""

    def __init__(
        self,
        broker: str,
        receiver: Receiver,
        processes: Processes,
        folder: Path,
        app: str = "tests.brokers.celery_app",
    ) -> None:
        self.receiver = receiver
        self._app = app
        self._processes = processes
        self._notes = folder / "notes"
        self.env = {
            "APP_BROKER": broker,
            "APP_NOTES": str(self._notes),
            "PYTHONPATH": str(ROOT),
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,redis",
        }

    def worker(self, *arguments: str, **env: str) -> Process:
        command = ["opentelemetry-instrument", "celery", "-A", self._app, "worker", "-l", "info"]
        return self._processes.start(
            "worker",
            [*command, *(arguments or ("-P", "prefork", "-c", "2"))],
            env=otel_env(self.receiver, "worker") | self.env | env,
            ready=" ready.",
            cwd=ROOT,
        )

    def beat(self, folder: Path) -> Process:
        schedule = str(folder / "schedule")
        return self._processes.start(
            "beat",
            ["opentelemetry-instrument", "celery", "-A", self._app, "beat", "-s", schedule],
            env=self.env | otel_env(self.receiver, "beat"),
            cwd=ROOT,
        )

    def submit(self, *arguments: str, **env: str) -> int:
        return self._processes.start(
            "caller",
            ["opentelemetry-instrument", sys.executable, "-m", self._app, *arguments],
            env=self.env | otel_env(self.receiver, "caller") | env,
            cwd=ROOT,
        ).wait()

    def notes(self) -> Notes:
        if not self._notes.exists():
            return []
        lines = self._notes.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]  # whole lines only

    def spans(self, condition: Callable[[list[Span]], bool]) -> list[Span]:
        return sorted(self.receiver.wait_for(condition, LIMIT), key=lambda span: span.start)


def paths(spans: list[Span], words: Callable[[Span], str]) -> dict[str, str]:
    """Return, by span id, a path: the words for all spans from the root down to this one."""
    known = {span.span_id: span for span in spans}

    def path(span: Span) -> str:
        parent = known.get(span.parent_id)
        above = path(parent) if parent else "?" if span.parent_id else ""
        return " > ".join(filter(None, [above, words(span)]))

    return {span.span_id: path(span) for span in spans}
