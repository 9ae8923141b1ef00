"""Real processes for the contract: callers and workers, and what they export.

A set of options has a caller and a worker, started when first needed and kept. One worker runs at
a time, since whoever runs takes the task.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.instrumentation import auto_instrumentation
from typing_extensions import Self

from otel_queue_bridge.otlp import Point, Receiver, Span
from otel_queue_bridge.testing.modes import undo_files
from otel_queue_bridge.testing.processes import (
    BIN,
    LIMIT,
    Caller,
    Process,
    Processes,
    otel_env,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

PREFIX = "OTEL_PYTHON_QUEUE_BRIDGE_"
NOWHERE = 1
"""A port on which nobody listens."""
TRANSPORT = "nng.req_reply"
"""Spans that only FastWorker has, beside the steps that all have."""
INSTRUMENT = str(Path(auto_instrumentation.__file__).parent)
"""What `opentelemetry-instrument` puts first into PYTHONPATH, and OpenTelemetry's operator too."""
_SOON = 5.0
"""Seconds after the signal to stop; a worker that still runs then may be waiting at the broker."""
PATIENCE = float(os.environ.get("CONTRACT_LIMIT", LIMIT))
"""Seconds to wait for what is to be exported, once all that it takes has happened."""


@dataclass(frozen=True)
class Library:
    """What the rig must know of a queue library and of the app that uses it."""

    system: str
    """The adapter's name."""
    app: str
    """Module of the app, which registers `tasks.functions` and has `submit`."""
    worker: Sequence[str]
    """Command that starts a worker: a script, or `python -m …`."""
    ready: str
    """What the worker prints when it takes tasks."""
    broker: str
    """Given to the app as `tasks.BROKER`."""
    nowhere: str
    """Such a broker where nobody listens."""
    workers: int = 1
    """What `task.workers.active` says of one worker."""
    ahead: int = 0
    """How many tasks a worker takes from the broker beside those that it runs."""
    folder: Path | None = None
    """Where app and worker run, and are imported from; the current one, if none."""
    module: str = ""
    """What a worker's script runs, if its name is not that of the module."""
    also: Sequence[tuple[Sequence[str], str]] = ()
    """Further processes of a worker, started after it: command, and what it prints when ready."""
    transport: str = ""
    """What spans have as `{system}.transport`, if the adapter knows it."""
    task_name: str = "{}"
    """How the library names a task, given the function's name."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """Rows that this kind of broker or worker makes impossible, as in `AdapterContract.lacks`."""
    clear: Callable[[], object] | None = None
    """Remove what a killed worker leaves behind and the next one would stumble over."""
    repeats: str = ""
    """Another kind of broker or worker, whose tests show what depends on no kind."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of all its processes, unless a row has others: what is off by default, say."""
    ends: bool = True
    """Whether a worker ends at its `stop_signal`."""
    wake: Callable[[], object] | None = None
    """End the wait of workers at the broker, if one may miss a signal that comes just before it."""
    stop_signal: int = signal.SIGTERM
    """What tells it to stop once it has finished the tasks that it runs."""


class Run:
    """One task, from its submit inside the span `caller` to its last attempt."""

    def __init__(self, receiver: Receiver, ran: Path, answer: Mapping[str, Any]) -> None:
        self._receiver = receiver
        self._ran = ran
        self._trace = answer["trace"]
        self._mark = answer["mark"]
        self.id: str = answer["id"]
        self.error: str = answer["error"]
        """Type name of what the submit raised, or empty."""
        self.left: list[str] = answer["left"]
        """What an undo has left behind in the library."""

    @property
    def executed(self) -> int:
        """How often the task's body has run, whatever telemetry says."""
        return self._ran.read_text().split().count(self._mark) if self._ran.exists() else 0

    def finished(self, times: int = 1) -> None:
        """Wait until the body has run, or run so often."""
        wait_until(lambda: self.executed >= times, what=f"{self.id} has run")

    def spans(self, operation: str = "", *, count: int = 1) -> list[Span]:
        """Wait for `count` spans of this task and return them in order of their start.

        Without an operation, all spans of its traces.
        """
        with suppress(TimeoutError):
            self._receiver.wait_for(
                lambda spans: len(self._of(spans, operation)) >= count, PATIENCE
            )
        found = self._of(self._receiver.spans(), operation)
        if len(found) < count:
            names = [span.name for span in self._of(self._receiver.spans(), "")]
            raise TimeoutError(f"not {count} spans {operation} within {PATIENCE:g} s: {names}")
        return found

    def _of(self, spans: Sequence[Span], operation: str) -> list[Span]:
        mine = [s for s in spans if self.id and s.attributes.get("messaging.message.id") == self.id]
        if operation:
            chosen = [s for s in mine if s.attributes["messaging.operation.name"] == operation]
        else:
            traces = {self._trace, *(span.trace_id for span in mine)}
            chosen = [s for s in spans if s.trace_id in traces and s.name != TRANSPORT]
        return sorted(chosen, key=lambda span: span.start)


class Rig:
    """One queue library with its receiver, and the callers and workers started so far."""

    def __init__(self, library: Library, folder: Path) -> None:
        self.library = library
        self.system = library.system
        self.receiver = Receiver()
        self._home = library.folder or Path.cwd()
        self._folder = folder
        self._processes = Processes(folder)
        self._callers: dict[object, tuple[str, Caller]] = {}
        self._workers: dict[object, list[list[tuple[str, Process]]]] = {}
        self._services: list[str] = []
        """Of the workers that run, or have run last."""
        self._names = (f"{number:03}" for number in range(1000))

    def __enter__(self) -> Self:
        self.receiver.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for _, caller in self._callers.values():
            caller.stop()
        self._processes.stop(grace=0)
        self.receiver.__exit__(None, None, None)

    def run(
        self,
        task: str,
        *args: object,
        caller: str = "auto",
        worker: str = "auto",
        options: Mapping[str, str] | None = None,
        **submit: object,
    ) -> Run:
        """Submit a task and return at once; `options` may name other variables (OTEL_...) too.

        `caller` and `worker` are instrumented by the command (auto), in code before the
        library is imported (early) or after (late), that after three cycles which were undone
        (cycled), are uninstrumented again (undone) or will be by `undo` (undoable), have our own
        code broken (broken), have hooks (hooked), an SDK but no instrumentation (bare), or the
        instrumentation but no SDK (off). A caller may have no broker (unreachable), or submit in
        forked children (forking).

        What else there is goes to the app's `submit`, except `relation`: the block to submit in.
        """
        self.work(worker, options=options)
        _, asked = self._caller(caller, _variables(options))
        answer = asked.ask({"task": task, "args": args, "kwargs": submit})
        return Run(self.receiver, self._folder / "ran", answer)

    # Workers

    def work(
        self, mode: str = "auto", *, options: Mapping[str, str] | None = None, count: int = 1
    ) -> None:
        """Have only workers of this kind running, and at least so many of them."""
        shown_by = os.environ.get("CONTRACT_SHOWN_BY")
        if shown_by and not all(name.startswith("OTEL_") for name in options or ()):
            pytest.skip(f"what options do is shown by {shown_by}")
        variables = _variables(options)
        key = (mode, *variables.items())
        if self._workers.keys() - {key}:
            self.kill()
        if key not in self._workers:
            if self.library.clear is not None:
                self.library.clear()
            self._workers[key] = []
            self._services = []
        workers = self._workers[key]
        while len(workers) < count:
            workers.append([])
            for command, ready in ((self.library.worker, self.library.ready), *self.library.also):
                service = f"worker-{next(self._names)}"
                process = self._processes.start(
                    service,
                    self._command(mode, command),
                    env=self._env(mode, service, variables),
                    ready=ready,
                    cwd=self._home,
                )
                workers[-1].append((service, process))
                self._services.append(service)

    def kill(self) -> None:
        """End all workers at once: their tasks were waited for."""
        for workers in self._workers.values():
            for process in self._running(workers):
                wait_until(lambda it=process: not it.signal_all(signal.SIGKILL), what="its end")  # type: ignore[misc]
        self._workers.clear()

    def stop(self) -> None:
        """Tell the workers to stop, as a supervisor would, and wait until they have."""
        stopped = [one for workers in self._workers.values() for one in self._running(workers)]
        moment = self._moment()
        if self.library.ends:
            end(stopped, self.library)
        else:
            for process in stopped:
                os.kill(process.pid, self.library.stop_signal)
            self._export(self._services, moment)
            for process in stopped:
                process.signal_all(signal.SIGKILL)
                process.wait()
        self._workers.clear()

    def undo(self) -> None:
        """Have the worker uninstrument itself while it runs (in mode `undoable`)."""
        asked, done = undo_files(self._folder)
        done.unlink(missing_ok=True)
        asked.touch()
        try:
            wait_until(done.exists, PATIENCE, "a process that watches its worker is undone")
        finally:
            asked.unlink()

    def release(self, gate: str) -> None:
        """Let the tasks `held` go on that were given this gate."""
        (self._folder / gate).touch()

    def _running(self, workers: Sequence[Sequence[tuple[str, Process]]]) -> list[Process]:
        return [process for worker in workers for _, process in worker if process.running()]

    # Callers

    def end_caller(self, caller: str = "auto", *, options: Mapping[str, str] | None = None) -> None:
        """End this caller; it exports what it has."""
        _, process = self._callers.pop((caller, *_variables(options).items()))
        process.stop()

    def _caller(self, mode: str, variables: Mapping[str, str]) -> tuple[str, Caller]:
        key = (mode, *variables.items())
        if key not in self._callers:
            service = f"caller-{next(self._names)}"
            caller = Caller(
                self._command(mode, ()),
                self._env(mode, service, variables),
                self._folder / f"{service}.log",
                self._home,
            )
            self._callers[key] = service, caller
            assert caller.ask(None) == "ready"
        return self._callers[key]

    def services(
        self, caller: str = "auto", *, options: Mapping[str, str] | None = None
    ) -> set[str]:
        """Return the names of this caller and of the workers that run."""
        key = (caller, *_variables(options).items())
        return {self._callers[key][0], *self._services}

    # What arrived

    def points(
        self, metric: str, task: str = "", *, by: Collection[str] | None = None
    ) -> list[Point]:
        """Return what was last said of a metric of this library, of one task or of all.

        The task may go by its function's name, or by the name that metrics have.
        """
        return [
            point
            for point in self.receiver.latest()
            if point.metric == metric
            and point.attributes.get("messaging.system") == self.system
            and (not task or point.attributes.get("task.name") in (task, self.task_name(task)))
            and (by is None or point.service in by)
        ]

    def counts(
        self,
        task: str = "",
        expected: Mapping[str, int] = {},
        *,
        by: Collection[str] | None = None,
    ) -> dict[str, int]:
        """Wait until so much is counted, and for another export; return all that is.

        `completed` is counted under each status.
        """

        def counted() -> Counter[str]:
            found: Counter[str] = Counter()
            for name in ("submitted", "dispatched", "completed", "retried", "duration", "wait"):
                for point in self.points(f"task.{name}", task, by=by):
                    status = point.attributes.get("task.status") if name == "completed" else name
                    found[str(status)] += point.count or int(point.value)
            return found

        self.exported(lambda: counted() >= Counter(expected), f"{expected} of {task}", counted)
        self.settle()
        return dict(counted())

    def workers(self) -> int | None:
        """Sum up what the workers that run, or have run last, say of `task.workers.active`."""
        return self._sum("task.workers.active")

    def busy(self) -> int | None:
        """Sum up what they say of `task.workers.busy`."""
        return self._sum("task.workers.busy")

    def _sum(self, metric: str) -> int | None:
        points = self.points(metric, by=self._services)
        return int(sum(point.value for point in points)) if points else None

    def depth(self, queue: str) -> int | None:
        return self.queue("depth", queue)

    def queue(self, state: str, queue: str) -> int | None:
        """Return what they say of this queue: of `depth`, `delayed` or `dead`."""
        points = self._of_queue(f"task.queue.{state}", queue)
        return int(max(point.value for point in points)) if points else None

    def oldest(self, queue: str) -> Point | None:
        """Return the greatest age that they tell of this queue."""
        points = self._of_queue("task.oldest", queue)
        return max(points, key=lambda point: point.value, default=None)

    def _of_queue(self, metric: str, queue: str) -> list[Point]:
        points = self.points(metric, by=self._services)
        return [p for p in points if p.attributes.get("messaging.destination.name") == queue]

    def exported(
        self, condition: Callable[[], object], what: str, found: Callable[[], object] = str
    ) -> None:
        """Wait until this holds of what has arrived."""
        try:
            self.receiver.wait_for(lambda _: bool(condition()), PATIENCE)
        except TimeoutError:
            raise TimeoutError(
                f"not exported within {PATIENCE:g} s: {what}; {found() or None}"
            ) from None

    def settle(self) -> None:
        """Wait until all that run and have metrics have exported them once more."""
        services = {service for service, _ in self._callers.values()}
        for workers in self._workers.values():
            services.update(name for worker in workers for name, one in worker if one.running())
        known = {point.service for point in self.receiver.latest()}
        self._export(services & known, self._moment())

    def _moment(self) -> int:
        """Return the time of the latest export: one may be under way."""
        return max((point.time for point in self.receiver.latest()), default=0)

    def _export(self, services: Collection[str], moment: int) -> None:
        """Wait until these have exported after that moment."""

        def all_have() -> bool:
            newer = {p.service for p in self.receiver.latest() if p.time > moment}
            return newer.issuperset(services)

        self.exported(all_have, f"one more export of {sorted(services)}")

    def raw(self) -> bytes:
        """Everything that was exported, as it was sent."""
        return self.receiver.raw()

    def task_name(self, task: str) -> str:
        return self.library.task_name.format(task)

    # Starting processes

    def _command(self, mode: str, command: Sequence[str]) -> list[str]:
        if mode == "auto" and command:
            program = sys.executable if command[0] == "python" else str(BIN / command[0])
            return [program, *command[1:]]
        if tuple(command[:2]) == ("python", "-m"):
            command = command[2:]
        elif command:
            command = [self.library.module or command[0], *command[1:]]
        mode = "early" if mode == "off" else mode
        start = [sys.executable, "-m", "otel_queue_bridge.testing.modes"]
        return [*start, mode, self.library.app, *command]

    def _env(self, mode: str, service: str, variables: Mapping[str, str]) -> dict[str, str]:
        instrument = "" if mode == "off" else INSTRUMENT
        path = [instrument, str(self._home), os.environ.get("PYTHONPATH", "")]
        env = {
            "CONTRACT_BROKER": self.library.nowhere
            if mode == "unreachable"
            else self.library.broker,
            "CONTRACT_FOLDER": str(self._folder),
            "CONTRACT_MODE": mode,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
        }
        # The handler that `logging` puts on the root logger makes RQ keep quiet; and half a second
        # of each start would go into importing FastAPI, to instrument it. `redis` has spans, too.
        disabled = ["celery", "fastapi", "logging", "redis"]
        if mode not in ("auto", "broken", "unreachable"):  # the rest is in code
            # Each by its name: the oldest OpenTelemetry that we allow knows no `*`.
            disabled += _instrumentors()
        env["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = ",".join(disabled)
        always = _variables(self.library.options)
        return env | otel_env(self.receiver, service) | always | dict(variables)


def end(workers: Sequence[Process], library: Library) -> None:
    """Send workers the signal to stop, and wait until they have."""
    for worker in workers:
        os.kill(worker.pid, library.stop_signal)
    if library.wake is not None:
        with suppress(TimeoutError):
            wait_until(lambda: not any(worker.running() for worker in workers), _SOON)
        library.wake()
    for worker in workers:
        worker.wait()


def _variables(options: Mapping[str, str] | None) -> dict[str, str]:
    return {
        name if name.startswith("OTEL_") else PREFIX + name.upper(): value
        for name, value in (options or {}).items()
    }


def _instrumentors() -> list[str]:
    """Return the names under which adapters are found by `opentelemetry-instrument`."""
    found = []
    for distribution in distributions():
        points = distribution.entry_points
        if points.select(group="otel_queue_bridge.adapters"):
            found += [one.name for one in points.select(group="opentelemetry_instrumentor")]
    return found
