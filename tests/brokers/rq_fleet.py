"""RQ as real processes: workers, callers that submit on demand, and what they have exported."""

import json
import os
import re
import signal
import sys
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from redis import Redis
from rq import Queue
from rq.job import Job

from otel_queue_bridge.otlp import Receiver, Span
from otel_queue_bridge.testing.processes import Caller
from tests.brokers.shop import ROOT, paths
from tests.servers import LIMIT, Process, Processes, otel_env, wait_until, wake_waiting

SCOPE = "otel_queue_bridge"
COMPLAINTS = re.compile(
    r".*(?:without telemetry|logged once|in a record of a child|loses counts|could not export"
    r"|Failed to detach|Exception while|no reading of|keeps its metrics elsewhere|dropping).*"
)
"""What we and the SDK log if something goes wrong."""

FLUSH = {
    "OTEL_PYTHON_QUEUE_BRIDGE_CHILD_EXPORT": "own",
    # On a busy machine, spans that are not exported within this time are lost by design.
    "OTEL_PYTHON_QUEUE_BRIDGE_FLUSH_TIMEOUT": "20",
}


class Fleet:
    """A user's workers and callers under `opentelemetry-instrument`, on one Valkey."""

    def __init__(
        self, broker: str, receiver: Receiver, processes: Processes, folder: Path, app: str
    ) -> None:
        self.broker = broker
        self.receiver = receiver
        self._processes = processes
        self._folder = folder
        self._app = app
        self._callers: list[Caller] = []
        self.env = {
            "APP_BROKER": broker,
            "APP_FOLDER": str(folder),
            "PYTHONPATH": str(ROOT),
            # `logging` would put a handler on the root logger, and then RQ logs nothing.
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,redis,logging",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "TZ": "Asia/Kathmandu",  # far from UTC, which RQ's times are in
        }
        with Redis.from_url(broker) as client:
            client.flushall()

    def worker(
        self,
        *arguments: str,
        kind: str = "rq.worker.Worker",
        command: tuple[str, ...] = ("opentelemetry-instrument",),
        ready: str | None = "Listening on",
        **env: str,
    ) -> Process:
        rq = ["rq", "worker", *(arguments or ("default",)), "--url", self.broker]
        worker = self._processes.start(
            "worker",
            [*command, *rq, "--worker-class", kind],
            env=otel_env(self.receiver, "worker") | self.env | env,
            ready=ready,
            cwd=ROOT,
        )
        _brokers[worker] = self.broker
        return worker

    def pool(self, size: int, *arguments: str, **env: str) -> Process:
        rq = ["rq", "worker-pool", "default", "--url", self.broker, "-n", str(size), *arguments]
        pool = self._processes.start(
            "pool",
            ["opentelemetry-instrument", *rq],
            env=otel_env(self.receiver, "worker") | self.env | env,
            cwd=ROOT,
        )
        _brokers[pool] = self.broker
        return pool

    def caller(self, *, instrumented: bool = True, **env: str) -> Caller:
        command = ["opentelemetry-instrument"] if instrumented else []
        script = f"import {self._app} as app; app.main()"  # RQ refuses functions of `__main__`
        scripts = Path(sys.executable).parent
        caller = Caller(
            [*(str(scripts / part) for part in command), sys.executable, "-c", script],
            otel_env(self.receiver, "caller") | self.env | env,
            self._folder / f"caller-{len(self._callers)}.log",
        )
        self._callers.append(caller)
        assert caller.ask(None) == "ready"
        return caller

    def stop(self) -> None:
        for caller in self._callers:
            caller.stop()
        self._processes.stop(grace=0)

    def enqueue(self, name: str, *arguments: Any, **options: Any) -> Job:
        """Enqueue from here, where nothing is instrumented."""
        with Redis.from_url(self.broker) as client:
            queue = Queue("default", connection=client)
            return queue.enqueue(f"{self._app}.{name}", *arguments, **options)

    def end_callers(self) -> None:
        """Let the callers export all they have, and end."""
        while self._callers:
            self._callers.pop().stop()

    def notes(self, kind: str = "") -> list[list[Any]]:
        """Return the notes of the jobs, which need no telemetry."""
        file = self._folder / "notes"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        notes = [json.loads(line) for line in lines if line.endswith("\n")]
        return [note for note in notes if not kind or note[0] == kind]

    def open_gate(self, name: str = "gate") -> None:
        (self._folder / name).touch()

    def spans(self, condition: Callable[[list[Span]], object]) -> list[Span]:
        return sorted(
            self.receiver.wait_for(lambda spans: bool(condition(spans)), LIMIT),
            key=lambda span: span.start,
        )

    def finished(self) -> "Finished":
        return Finished(self.receiver)


def complaints(worker: Process) -> list[str]:
    return COMPLAINTS.findall(worker.log())


_SOON = 5
"""Seconds in which a worker sees a signal, unless it sees it only when Redis answers."""

_brokers: WeakKeyDictionary[Process, str] = WeakKeyDictionary()


def end(worker: Process) -> None:
    """Have it stop, as a supervisor would."""
    os.kill(worker.pid, signal.SIGTERM)
    with suppress(TimeoutError):
        wait_until(lambda: not worker.running(), _SOON)
    wake_waiting(_brokers[worker])
    code = worker.wait()
    assert code == 0, f"ended with {code}:\n{worker.log()}"


def described(span: Span) -> str:
    """Describe how one of our spans ended; a user's span is described by its name."""
    if span.scope != SCOPE:
        return span.name
    number = span.attributes["task.attempt"]
    words = (
        span.attributes["messaging.operation.name"],
        f"#{number}" if number > 1 else "",
        span.attributes.get("task.status"),
        span.status.replace("UNSET", ""),
        span.attributes.get("error.type"),
    )
    return " ".join(filter(None, words))


def unclean(receiver: Receiver, *, workers: int = 1) -> list[str]:
    """List garbled requests, spans that came twice, and metrics of any process but the workers."""
    spans = Counter(span.span_id for span in receiver.spans())
    twice = [span.name for span in receiver.spans() if spans[span.span_id] > 1]
    told: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for point in receiver.points():
        if point.scope == SCOPE and point.service == "worker":
            told[point.resource["service.instance.id"]][point.metric] += 1
    by_size = sorted(told.values(), key=Counter.total, reverse=True)
    # A worker of a pool has flushed, and runs no exit handlers: it may end in the middle of one
    # more export by the reader's thread.
    rejected = [one for one in receiver.rejected if one != "/v1/metrics: the body is cut off"]
    return [*rejected, *twice, *map(str, by_size[workers:])]


def instances(points: Iterable[Any]) -> set[str]:
    return {point.resource["service.instance.id"] for point in points}


class Finished:
    """All that the processes have exported so far, by function."""

    def __init__(self, receiver: Receiver) -> None:
        spans = receiver.spans()
        path = paths(spans, described)
        task: dict[str, str] = {}
        for span in spans:
            if span.scope == SCOPE:
                task[span.span_id] = span.attributes["task.name"].rpartition(".")[2]
        self.spans: defaultdict[str, list[str]] = defaultdict(list)
        for span in spans:
            name = task.get(span.span_id) or task.get(span.parent_id, "")
            insort(self.spans[name], path[span.span_id])
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        series = {
            (point.resource["service.instance.id"], point.metric, *point.attributes.values()): point
            for point in receiver.points()
        }
        for point in series.values():
            if "task.name" in point.attributes:
                words = (point.attributes.get(name) for name in ("task.status", "error.type"))
                kind = " ".join(filter(None, [point.metric, *words]))
                count = point.count if point.kind == "histogram" else int(point.value)
                self.counts[point.attributes["task.name"].rpartition(".")[2]][kind] += count
        self.complaints: list[str] = []
