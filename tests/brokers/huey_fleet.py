"""Huey as real processes: consumers, callers, and what they have exported."""

import json
import os
import signal
import sys
from bisect import insort
from collections import Counter, defaultdict
from pathlib import Path

from otel_queue_bridge.otlp import Receiver, Span
from tests.brokers.shop import ROOT, Notes, paths
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


def case_and_role(task_name: str) -> tuple[str, str]:
    case, _, role = task_name.removeprefix(f"{APP}.").partition(": ")
    return case, role


def described(span: Span) -> str:
    operation = span.attributes.get("messaging.operation.name", span.name)
    if operation == "caller":
        return ""
    _, role = case_and_role(span.attributes.get("task.name", ""))
    words = (
        operation,
        role if operation == "submit" else "",
        span.attributes.get("task.status"),
        span.status.replace("UNSET", ""),
        span.attributes.get("error.type"),
    )
    return " ".join(filter(None, words))


class Finished:
    """All that the processes have exported so far, by case."""

    def __init__(self, receiver: Receiver) -> None:
        spans = receiver.spans()
        path = paths(spans, described)
        cases = {
            span.trace_id: case_and_role(span.attributes["task.name"])[0]
            for span in spans
            if "task.name" in span.attributes
        }
        self.spans: defaultdict[str, list[str]] = defaultdict(list)
        for span in spans:
            if path[span.span_id]:
                insort(self.spans[cases[span.trace_id]], path[span.span_id])
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for point in receiver.latest():
            if "task.name" in point.attributes:
                words = (point.attributes.get(name) for name in ("task.status", "error.type"))
                kind = " ".join(filter(None, [point.metric, *words]))
                count = point.count if point.kind == "histogram" else int(point.value)
                self.counts[case_and_role(point.attributes["task.name"])[0]][kind] += count
