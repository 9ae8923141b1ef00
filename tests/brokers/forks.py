"""The app that the tests of forks and gauges share, and sums over all of its processes."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from otel_queue_bridge.otlp import Point, Receiver
from tests.brokers.shop import ROOT, Shop
from tests.servers import Processes, otel_env

APP = "tests.brokers.celery_forks_app"
SCOPE = "otel_queue_bridge"


class Forking(Shop):
    """The app of `celery_forks_app`, exporting its metrics at short intervals."""

    def __init__(self, broker: str, receiver: Receiver, processes: Processes, folder: Path) -> None:
        super().__init__(broker, receiver, processes, folder, app=APP)
        self._folder = folder
        self.env |= {"APP_GATES": str(folder), "OTEL_METRIC_EXPORT_INTERVAL": "200"}

    def submit(self, name: str, count: int = 1, **options: Any) -> None:
        """Submit under `opentelemetry-instrument`, and wait until that process has exported."""
        self.submit_all([{"name": name, "count": count, **options}])

    def submit_all(self, messages: list[dict[str, Any]], **env: str) -> None:
        self._send(["opentelemetry-instrument", sys.executable], messages, env)

    def send(self, *messages: dict[str, Any]) -> None:
        """Submit likewise, but without any telemetry."""
        self._send([sys.executable], list(messages), {})

    def _send(
        self, interpreter: list[str], messages: list[dict[str, Any]], env: dict[str, str]
    ) -> None:
        caller = self._processes.start(
            "caller",
            [*interpreter, "-m", APP, json.dumps(messages)],
            env=otel_env(self.receiver, "caller") | self.env | env,
            cwd=ROOT,
        )
        assert caller.wait() == 0, caller.log()

    def ran(self, name: str = "ok") -> list[str]:
        """Return the ids of the tasks that ran, by their own notes."""
        return [task_id for kind, task_id, *_ in self.notes() if kind == name]

    def open_gate(self, name: str = "gate") -> None:
        (self._folder / name).touch()

    def executed(self, name: str = "ok") -> list[str]:
        """Return the task id of every execute span of this task that arrived."""
        return [
            span.attributes["messaging.message.id"]
            for span in self.receiver.spans()
            if span.name == f"execute {name}"
        ]

    def counts(self) -> Counter[tuple[str, ...]]:
        """Sum our counters, and the counts of our histograms, over every process."""
        return totals(self.receiver.latest())


def totals(points: Iterable[Point]) -> Counter[tuple[str, ...]]:
    """Sum up by metric, task name and, where there is one, status."""
    sums: Counter[tuple[str, ...]] = Counter()
    for point in points:
        if point.scope == SCOPE and "task.name" in point.attributes:
            names = (point.attributes["task.name"], point.attributes.get("task.status"))
            key = (point.metric, *(name for name in names if name))
            sums[key] += point.count if point.kind == "histogram" else int(point.value)
    return sums


def of_metric(points: Iterable[Point], metric: str) -> list[Point]:
    return [point for point in points if point.metric == metric and point.scope == SCOPE]


def instances(points: Iterable[Point], where: Callable[[Point], bool]) -> set[str]:
    """Return the processes that exported such points of ours."""
    return {
        point.resource["service.instance.id"]
        for point in points
        if point.scope == SCOPE and where(point)
    }
