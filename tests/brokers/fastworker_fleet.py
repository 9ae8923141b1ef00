"""FastWorker as real processes: control planes, subworkers, a caller, and their spans."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typing_extensions import Self

from otel_queue_bridge.otlp import Receiver, Span
from otel_queue_bridge.testing.processes import BIN, Caller
from tests.brokers.shop import ROOT
from tests.fastworker import ControlPlane
from tests.servers import LIMIT, Process, Processes, otel_env, wait_until

APP = "tests.brokers.fastworker_app"
PRIORITIES = ("critical", "high", "normal", "low")
"""In the order of their ports."""
LATE = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
"""Of a process that exports nothing by itself while a test lasts."""


OLD = version("fastworker") < "0.3"


def since_0_3(what: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(OLD, reason=f"0.1.1 has no {what}")


class Invocation(NamedTuple):
    """A call of one of a client's methods."""

    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def call(method: str, *args: Any, **kwargs: Any) -> Invocation:
    return Invocation(method, args, kwargs)


class Fleet:
    """The processes that a test module starts, one receiver for all of them, and one caller."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes = Processes(folder)
        self.receiver = Receiver()
        self._callers: list[Caller] = []
        self._caller: Caller | None = None

    def __enter__(self) -> Self:
        self.receiver.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for caller in self._callers:
            caller.stop()
        self.processes.stop(grace=0)
        self.receiver.__exit__(None, None, None)

    def env(self, service: str, **env: str) -> dict[str, str]:
        ours = {
            "APP_FOLDER": str(self.folder),
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,redis,logging",
            "PYTHONPATH": str(ROOT),
        }
        return otel_env(self.receiver, service) | ours | env

    def plane(self, name: str, subworkers: int = 0, **env: str) -> "Plane":
        return Plane(self, name, subworkers, env)

    def caller(self, name: str = "caller") -> Caller:
        """Start another caller; when it is stopped, it ends the calls that are under way."""
        command = [str(BIN / "opentelemetry-instrument"), sys.executable, "-c"]
        caller = Caller(
            [*command, f"import {APP} as app; app.main()"],
            self.env(name),
            self.folder / f"{name}.log",
        )
        self._callers.append(caller)
        assert caller.ask(None) == "ready"
        return caller

    def end(self, caller: Caller) -> None:
        self._callers.remove(caller)
        caller.stop()

    def ask(
        self, control_plane: str, *calls: Invocation, caller: Caller | None = None, **options: Any
    ) -> "Trace":
        """Let the caller make these calls, with a client that knows this control plane."""
        if caller is None:
            caller = self._caller = self._caller or self.caller()
        question = {"calls": calls, "control_plane": control_plane, **options}
        return Trace(self, caller.ask(question))

    def open_gate(self, gate: str) -> None:
        (self.folder / gate).touch()

    def notes(self, kind: str) -> list[list[Any]]:
        """Return the notes of the tasks, which need no telemetry."""
        file = self.folder / "notes"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        notes = [json.loads(line) for line in lines if line.endswith("\n")]
        return [note[1:] for note in notes if note[0] == kind]

    def at_gate(self, gate: str) -> None:
        """Wait until a task waits at this gate."""
        wait_until(lambda: [gate] in self.notes("gate"), what=f"a task is at {gate}")

    def spans(self, condition: Callable[[Span], object], count: int = 1) -> list[Span]:
        """Wait for this many spans of a kind."""
        found = self.receiver.wait_for(
            lambda spans: sum(map(bool, map(condition, spans))) >= count, LIMIT
        )
        return sorted(filter(condition, found), key=lambda span: span.start)

    def counts(self, expected: dict[str, int], *tasks: str) -> Counter[str]:
        """Wait until these tasks have at least these counts; return the counts of all processes."""

        def counted() -> Counter[str]:
            counts: Counter[str] = Counter()
            for point in self.receiver.latest():
                if point.attributes.get("task.name") in tasks:
                    kind = (point.attributes.get(name) for name in ("task.status", "error.type"))
                    words = filter(None, [point.metric.removeprefix("task."), *kind])
                    value = point.count if point.kind == "histogram" else int(point.value)
                    counts[" ".join(words)] += value
            return counts

        with suppress(TimeoutError):  # the test shows what is missing
            self.receiver.wait_for(lambda _: counted() >= Counter(expected), LIMIT)
        return counted()


class Plane:
    """A control plane and its subworkers, each under `opentelemetry-instrument`."""

    old = OLD

    def __init__(self, fleet: Fleet, name: str, subworkers: int, env: dict[str, str]) -> None:
        self.name = name
        self.started = time.monotonic()
        self._fleet = fleet
        self._env = env
        self._ports = ports = ControlPlane(APP)
        self.address, self.discovery = ports.address, ports.discovery
        self.subworkers: dict[str, Process] = {}
        self.process = self._start(name, ports.command())
        self.process.wait_for(ports.ready)
        self.add_subworkers(subworkers)

    def add_subworkers(self, number: int) -> None:
        """From when this returns, they get the tasks, and the control plane itself gets none."""
        first = len(self.subworkers)
        names = [f"{self.name}-{each}" for each in range(first, first + number)]
        commands = {name: self._ports.subworker(name) for name in names}
        self.subworkers |= {name: self._start(name, commands[name][0]) for name in names}
        for name, (_, ready) in commands.items():
            self.subworkers[name].wait_for(ready)
            # A subworker says that it is ready also if its registration has not been answered.
            self.process.wait_for(f"Registered subworker: {name} at")

    def _start(self, name: str, command: list[str]) -> Process:
        instrumented = ["opentelemetry-instrument", *command]
        env = self._fleet.env(name, **self._env)
        return self._fleet.processes.start(name, instrumented, env=env, cwd=ROOT)

    def port(self, priority: str, subworker: str = "") -> int:
        """Return the port on which the control plane, or a subworker, takes tasks of a priority."""
        distance = 10 * (1 + [*self.subworkers].index(subworker)) if subworker else 0
        return port_of(self.address, priority) + distance

    def signal(self, number: int) -> None:
        for process in (self.process, *self.subworkers.values()):
            process.signal_all(number)

    def ask(self, *calls: Invocation, **options: Any) -> "Trace":
        return self._fleet.ask(self.address, *calls, **options)

    def submit(self, name: str, *args: Any, **options: Any) -> "Trace":
        """Submit a task and wait for its result."""
        return self.ask(call("submit_task", name, args=args, **options))

    def delay(self, name: str, *args: Any, **options: Any) -> "Trace":
        return self.ask(call("delay", name, *args, **options))


class Trace:
    """The results of one question to the caller, and the spans below the span in which it asked."""

    def __init__(self, fleet: Fleet, answer: dict[str, Any]) -> None:
        self.id: str = answer["trace"]
        self.results: list[Any] = answer["results"]
        self._fleet = fleet

    def spans(self, count: int) -> list[Span]:
        """Wait for this many spans, and return all there are in order of their start."""
        return self._fleet.spans(lambda span: span.trace_id == self.id, count)

    def outline(self, count: int) -> list[str]:
        return outline(self.spans(count))


def only(spans: list[Span], kind: str, **attributes: Any) -> Span:
    """Return the one span of a kind, with these attributes (`_` stands for a dot)."""
    (span,) = every(spans, kind, **attributes)
    return span


def every(spans: list[Span], kind: str, **attributes: Any) -> list[Span]:
    wanted = {name.replace("_", "."): value for name, value in attributes.items()}
    return [
        span
        for span in spans
        if span.attributes.get("messaging.operation.name", span.name) == kind
        and wanted.items() <= span.attributes.items()
    ]


def described(span: Span) -> str:
    """Describe how one of our spans ended; a user's span is described by its name."""
    number = span.attributes.get("fastworker.nng.attempt", span.attributes.get("task.attempt", 1))
    words = (
        span.attributes.get("messaging.operation.name", span.name),
        f"#{number}" if number > 1 else "",
        span.attributes.get("task.status"),
        span.status.replace("UNSET", ""),
        span.attributes.get("error.type"),
    )
    return " ".join(filter(None, words))


def outline(spans: list[Span], above: str = "", indent: str = "") -> list[str]:
    """Draw a trace, a line for each span; siblings are in order of their start."""
    lines = []
    for span in spans:
        if span.parent_id == above:
            lines += [indent + described(span), *outline(spans, span.span_id, f"{indent}  ")]
    return lines


def port_of(control_plane: str, priority: str) -> int:
    return int(control_plane.rpartition(":")[2]) + PRIORITIES.index(priority)


def listening(kind: str, address: str, priority: str = "critical") -> Any:
    """Listen with a bare NNG socket where a control plane with this address would."""
    return _socket(kind, listen=f"tcp://127.0.0.1:{port_of(address, priority)}")


def dialled(kind: str, address: str, priority: str = "critical") -> Any:
    return _socket(kind, dial=f"tcp://127.0.0.1:{port_of(address, priority)}")


def _socket(kind: str, **to: str) -> Any:
    import pynng

    limit = int(LIMIT * 1000)
    return getattr(pynng, kind)(recv_timeout=limit, send_timeout=limit, **to)


def free_address() -> str:
    """Return an address where nobody listens."""
    return ControlPlane().address
