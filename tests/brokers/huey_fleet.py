"""Huey as real processes: consumers, callers, and what they have exported."""

import json
import os
import signal
import sys
from pathlib import Path

from otel_queue_bridge.otlp import Receiver
from tests.brokers.finished import Finished
from tests.brokers.shop import ROOT, Notes
from tests.servers import Process, Processes, otel_env

APP = "tests.brokers.huey_app"
SPANS_AT_THE_END = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}
AT_THE_END = {**SPANS_AT_THE_END, "OTEL_METRIC_EXPORT_INTERVAL": "600000"}
"""Nothing is exported without a flush."""
_GREEN = {"OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH": "patch_all"}
_QUICK = ("--delay=0.02", "--max-delay=0.1", "--health-check-interval=0.5")


class Fleet:
    """A user's consumers and callers on one queue."""

    def __init__(
        self, broker: str, receiver: Receiver, processes: Processes, folder: Path, **env: str
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.receiver = receiver
        self._processes = processes
        self._notes = folder / "notes"
        self._gate = folder / "gate"
        self.env = {
            "APP_BROKER": broker,
            "APP_GATE": str(self._gate),
            "APP_NOTES": str(self._notes),
            "PYTHONPATH": str(ROOT),
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,redis,logging",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "TZ": "Asia/Kathmandu",  # far from UTC, which Huey's times are in
            **env,
        }

    def consumer(
        self, kind: str = "thread", *arguments: str, instrumented: bool = True, **env: str
    ) -> Process:
        command = ["opentelemetry-instrument"] if instrumented else []
        green = _GREEN if kind == "greenlet" else {}
        return self._processes.start(
            "worker",
            [*command, "huey_consumer", f"{APP}.huey", "-k", kind, "-w", "2", *_QUICK, *arguments],
            env=otel_env(self.receiver, "worker") | self.env | green | {"APP_WORKERS": kind} | env,
            ready="The following commands are available",
            cwd=ROOT,
        )

    def submit(self, *names: str, instrumented: bool = True, **env: str) -> Process:
        """Submit these, each in a separate trace."""
        command = ["opentelemetry-instrument"] if instrumented else []
        script = f"from {APP} import main; main()"
        return self._processes.start(
            "caller",
            [*command, sys.executable, "-c", script, json.dumps(names)],
            env=otel_env(self.receiver, "caller") | self.env | env,
            cwd=ROOT,
        )

    def submitted(self, *names: str, instrumented: bool = True, **env: str) -> None:
        """Submit these, and wait until the caller has exported that."""
        caller = self.submit(*names, instrumented=instrumented, **env)
        assert caller.wait() == 0, caller.log()

    def finished(self) -> Finished:
        return Finished(self.receiver, f"{APP}.")

    def open_gate(self) -> None:
        self._gate.touch()

    def notes(self, word: str = "") -> Notes:
        if not self._notes.exists():
            return []
        lines = self._notes.read_text().splitlines(keepends=True)
        notes = [json.loads(line) for line in lines if line.endswith("\n")]  # whole lines only
        return [note for note in notes if not word or note[0] == word]


def stop(worker: Process, number: int = signal.SIGTERM) -> None:
    worker.wait_for_handler(number)
    os.kill(worker.pid, number)
    assert worker.wait() == 0, worker.log()
