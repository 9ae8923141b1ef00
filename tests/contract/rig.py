"""Real processes for the contract: callers and workers, one of each per set of options."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import Self

from otel_queue_bridge.instrumentor import adapters
from otel_queue_bridge.otlp import Point, Receiver, Span
from tests.servers import LIMIT, Process, Processes, otel_env, wait_until

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]
PREFIX = "OTEL_PYTHON_QUEUE_BRIDGE_"
NOWHERE = 1
"""A port on which nobody listens."""
TRANSPORT = "nng.req_reply"
"""Spans that only FastWorker has, beside the steps that all have."""


class Library(NamedTuple):
    """What differs between the queue libraries, as far as starting them goes."""

    system: str
    app: str
    command: Sequence[str]
    ready: str
    broker: str
    nowhere: str
    module: str = ""
    """What to run instead of the command's script, if it is named otherwise."""
    also: Sequence[tuple[Sequence[str], str]] = ()
    """Further processes of a worker, started after it: command, and what it says when ready."""


class Submitted:
    """A run of `otel_queue_bridge.testing.Run`."""

    def __init__(self, receiver: Receiver, ran: Path, answer: dict[str, str]) -> None:
        self._receiver = receiver
        self._ran = ran
        self._trace = answer["trace"]
        self.id = answer["id"]
        self._mark = answer["mark"]
        self.error = answer["error"]

    @property
    def executed(self) -> int:
        return self._ran.read_text().split().count(self._mark) if self._ran.exists() else 0

    def spans(self, operation: str = "", *, count: int = 1) -> list[Span]:
        spans = self._receiver.wait_for(
            lambda spans: len(self._of(spans, operation)) >= count, LIMIT
        )
        return self._of(spans, operation)

    def finished(self) -> None:
        wait_until(lambda: self.executed, what=f"{self.id} has run")

    def _of(self, spans: list[Span], operation: str) -> list[Span]:
        mine = [s for s in spans if self.id and s.attributes.get("messaging.message.id") == self.id]
        if operation:
            chosen = [s for s in mine if s.attributes["messaging.operation.name"] == operation]
        else:
            traces = {self._trace, *(span.trace_id for span in mine)}
            chosen = [s for s in spans if s.trace_id in traces and s.name != TRANSPORT]
        return sorted(chosen, key=lambda span: span.start)


class Caller:
    """A process that submits on demand; it ends with its input, so with us."""

    def __init__(self, command: Sequence[str], env: dict[str, str], log: Path) -> None:
        outer = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                env=outer | env,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
            )
        self._log = log

    def ask(self, question: dict[str, Any] | None) -> Any:
        if question is not None:
            self._process.stdin.write(json.dumps(question) + "\n")
        answer = self._process.stdout.readline()
        assert answer, f"the caller ended:\n{self._log.read_text()}"
        return json.loads(answer)

    def stop(self) -> None:
        """End its input: it exports what it has and ends."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Fleet:
    """One queue library with its receiver, broker, and the callers and workers started so far."""

    def __init__(self, library: Library, folder: Path) -> None:
        self.system = library.system
        self._library = library
        self._folder = folder
        self._processes = Processes(folder)
        self._callers: dict[object, Caller] = {}
        self._workers: dict[object, list[Process]] = {}
        self._ran = folder / "ran"
        self.receiver = Receiver()

    def __enter__(self) -> Self:
        self.receiver.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for caller in self._callers.values():
            caller.stop()
        self._processes.stop(grace=0)
        self.receiver.__exit__(None, None, None)

    def task_name(self, task: str) -> str:
        return task

    def total(self, metric: str, task: str) -> float:
        def told() -> list[Point]:
            mine = {"task.name": task}.items()
            points = self.receiver.latest()
            return [p for p in points if p.metric == metric and mine <= p.attributes.items()]

        points = wait_until(told, what=f"{metric} of {task}")
        return sum(p.count if p.kind == "histogram" else p.value for p in points)

    def raw(self) -> bytes:
        return self.receiver.raw()

    def run(
        self,
        task: str,
        *,
        caller: str = "auto",
        worker: str = "auto",
        options: dict[str, str] | None = None,
        **submit: Any,
    ) -> Submitted:
        options = {
            name if name.startswith("OTEL_") else PREFIX + name.upper(): value
            for name, value in (options or {}).items()
        }
        self._work(worker, options)
        answer = self._caller(caller, options).ask({"task": task, **submit})
        return Submitted(self.receiver, self._ran, answer)

    def _work(self, mode: str, options: dict[str, str]) -> None:
        """Have this worker alone running: whoever runs takes the task."""
        key = (mode, *options.items())
        for other in [other for other in self._workers if other != key]:
            for process in self._workers.pop(other):  # what it ran has been waited for
                wait_until(lambda it=process: not it.signal_all(signal.SIGKILL), what="its end")
        if key not in self._workers:
            library = self._library
            self.clear()
            self._workers[key] = [
                self._processes.start(
                    "worker",
                    self._command(mode, command),
                    env=self._env(mode, "worker", options),
                    ready=ready,
                    cwd=ROOT,
                )
                for command, ready in ((library.command, library.ready), *library.also)
            ]

    def clear(self) -> None:
        """Remove what a killed worker leaves behind and the next one would stumble over."""

    def _caller(self, mode: str, options: dict[str, str]) -> Caller:
        key = (mode, *options.items())
        if key not in self._callers:
            number = len(self._callers)
            self._callers[key] = Caller(
                self._command(mode, ()),
                self._env(mode, "caller", options),
                self._folder / f"caller-{number}.log",
            )
            assert self._callers[key].ask(None) == "ready"
        return self._callers[key]

    def _command(self, mode: str, command: Sequence[str]) -> list[str]:
        instrument = [] if mode == "off" else [str(BIN / "opentelemetry-instrument")]
        if mode == "auto" and command:
            return [*instrument, str(BIN / command[0]), *command[1:]]
        mode = "early" if mode == "off" else mode
        return [
            *instrument,
            sys.executable,
            "-m",
            "tests.contract.processes",
            mode,
            f"tests.contract.apps.{self._library.app}",
            *((self._library.module or command[0], *command[1:]) if command else ()),
        ]

    def _env(self, mode: str, service: str, options: dict[str, str]) -> dict[str, str]:
        env = {
            "CONTRACT_BROKER": self._library.nowhere
            if mode == "unreachable"
            else self._library.broker,
            "CONTRACT_RAN": str(self._ran),
            "PYTHONPATH": str(ROOT),
        }
        # The handler that `logging` puts on the root logger makes RQ keep quiet; and half a second
        # of each start would go into importing FastAPI, to instrument it.
        disabled = ["celery", "fastapi", "logging"]
        if mode in ("early", "late", "undone", "bare", "hooked"):  # the rest is in code
            # Each by its name: the oldest OpenTelemetry that we allow knows no `*`.
            disabled += [f"queue_bridge_{queue}" for queue in adapters()]
        env["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = ",".join(disabled)
        return env | otel_env(self.receiver, service) | options
