"""One queue under one fault: its broker, worker and caller, with us or, as control, without."""

from __future__ import annotations

import os
import random
import signal
import sys
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from threading import Thread
from typing import TYPE_CHECKING

from otel_queue_bridge.testing.processes import (
    BIN,
    LIMIT,
    Caller,
    Process,
    Processes,
    otel_env,
    wait_until,
)
from otel_queue_bridge.testing.rig import end
from soak import tasks
from soak.collector import Collector
from soak.comparison import Allowance, Difference, compare
from soak.faults import FAULTS, JUNK
from soak.queues import QUEUES
from soak.truth import FOLDER, SERVICE, Attempt, Truth
from tests.servers import Valkey

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Self

BEFORE, DURING, AFTER = PHASES = "abc"
PATIENCE = LIMIT


@dataclass(frozen=True)
class Plan:
    """What makes a run the same as another one."""

    queue: str
    fault: str
    seed: int
    number: int
    """How many tasks each of the three loads has."""
    protocol: str
    ours: bool = True

    def control(self) -> Plan:
        reaches = FAULTS[self.fault].reaches_tasks
        return replace(self, fault=self.fault if reaches else "none", protocol="", ours=False)

    @property
    def shaken(self) -> bool:
        """Whether tasks of the second load may be lost or run twice."""
        return FAULTS[self.fault].tasks or self.fault in QUEUES[self.queue].shaken

    def loads(self) -> dict[str, list[tuple[str, str]]]:
        lacks = QUEUES[self.queue].lacks
        return {phase: tasks.mix(self.seed, phase, self.number, lacks) for phase in PHASES}


@dataclass(frozen=True)
class Result:
    hows: dict[str, list[str]]
    """How the attempts of each task have ended."""
    changed: list[str]
    """The tasks that went otherwise than planned."""
    difference: Difference
    """Between telemetry and truth; none without us."""


class Run:
    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._queue = QUEUES[plan.queue]
        self._fault = FAULTS[plan.fault]
        self._loads = plan.loads()
        self.folder = folder
        self._truth = Truth(folder)
        self._chance = random.Random(plan.seed)
        self._killed: set[int] = set()
        self._workers = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._processes = stack.enter_context(Processes(self.folder))
            self._valkey = None
            broker = str(self.folder / "tasks.sqlite3")
            if self._plan.queue not in ("django", "fastworker"):
                self._valkey = Valkey(self._processes, self.folder, keep=True)
                broker = self._valkey.url
            self.collector = stack.enter_context(Collector(self._plan.protocol))
            self._library = self._queue.library(broker)
            self.start_worker()
            hostile = self._fault.how == "hostile"
            self._callers = {"plain": self._caller("caller", ours=self._plan.ours)}
            if hostile:
                self._callers["hostile"] = self._caller("stranger", ours=False)
            for caller in self._callers.values():
                stack.callback(caller.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def go(self) -> Result:
        """Load it three times, the second time with the fault; return what came of it."""
        self._submit(BEFORE)
        self._finish(BEFORE)
        self._settle(BEFORE)
        with self._fault.during(self):
            self._load_and_strike()
            if not self._plan.shaken:
                self._finish(DURING)
        self._submit(AFTER)
        self._finish(AFTER)
        self._finish(DURING, but=self._queue.held if self._plan.shaken else 0)
        self._settle(BEFORE, AFTER)
        while self._callers:
            self._callers.popitem()[1].stop()
        self.stop_worker()
        hows = self._truth.hows()
        names = tasks.all_keys(one for load in self._loads.values() for one in load)
        changed = [key for key, name in names.items() if hows.get(key) != tasks.planned(name)]
        return Result(hows, changed, self._compare(PHASES) if self._plan.ours else Difference())

    # What faults do

    def start_worker(self) -> None:
        self._workers += 1
        self._worker: list[Process] = []
        commands = ((self._library.worker, self._library.ready), *self._library.also)
        for at, (command, ready) in enumerate(commands):
            name = f"worker-{self._workers}-{at}"
            program = sys.executable if command[0] == "python" else str(BIN / command[0])
            process = self._processes.start(
                name,
                [*self._instrument(ours=self._plan.ours), program, *command[1:]],
                env=self._env(name),
                ready=ready,
            )
            self._worker.append(process)

    def stop_worker(self) -> None:
        """Send it the signal to stop, as a supervisor would, and wait until it has."""
        if not self._library.ends:
            self._settle(*PHASES)
            self.signal_worker(signal.SIGKILL)
            return
        end(self._worker, self._library)

    def kill_worker(self) -> None:
        self._killed.update(*(process.members() for process in self._worker))
        for process in self._worker:
            process.lose_power()

    def signal_worker(self, number: int) -> None:
        for process in self._worker:
            process.signal_all(number)

    def kill_child(self) -> None:
        """Kill the process of a task that runs."""
        running = self._running()
        if running:
            pid = self._chance.choice(running).pid
            self._killed.add(pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def restart_broker(self) -> None:
        assert self._valkey
        self._valkey.restart()

    # The load

    def _caller(self, name: str, *, ours: bool) -> Caller:
        module = [sys.executable, "-m", "soak.caller", self._library.app]
        command = [*self._instrument(ours=ours), *module]
        caller = Caller(command, self._env(name), self.folder / f"{name}.log", self.folder)
        assert caller.ask(None) == "ready"
        return caller

    def _submit(self, phase: str, how: str = "plain") -> None:
        load = self._loads[phase]
        junk = self._chance.sample(JUNK, len(JUNK)) if how == "hostile" else []
        self._callers.get(how, self._callers["plain"]).ask((how, load, junk))  # type: ignore[arg-type]

    def _load_and_strike(self) -> None:
        strike = self._fault.strike
        submitting = Thread(target=self._submit, args=(DURING, self._fault.how))
        held_up = strike is not None and not self._queue.waits
        if held_up:
            self.signal_worker(signal.SIGSTOP)
        submitting.start()
        if held_up:
            submitting.join()
            self.signal_worker(signal.SIGCONT)
        if strike is not None:
            names = tasks.all_keys(self._loads[DURING])
            wait_until(
                lambda: self._running() or all(self._has_ended(*one) for one in names.items()),
                what="a task runs, or all have",
            )
            strike(self)
        submitting.join()

    def _has_ended(self, key: str, name: str) -> bool:
        attempts = self._truth.attempts(key)
        begun = len(attempts) >= len(tasks.planned(name))
        return begun and (bool(attempts[-1].how) or name == tasks.KILLED)

    def _running(self) -> list[Attempt]:
        """Return the attempts of the second load that have begun, and not ended."""
        names = tasks.all_keys(self._loads[DURING])
        return [
            attempt
            for key, name in names.items()
            if name != tasks.KILLED
            for attempt in self._truth.attempts(key)
            if not attempt.how and attempt.pid not in self._killed
        ]

    def _finish(self, phase: str, but: int = 0) -> None:
        """Wait until all tasks of this load have run, or all but so many."""
        pending = tasks.all_keys(self._loads[phase])

        def finished() -> bool:
            if self._plan.shaken and not all(process.running() for process in self._worker):
                self.start_worker()  # as a supervisor would
            for key in [*pending]:
                if self._has_ended(key, pending[key]):
                    del pending[key]
            return len(tasks.without_nested(pending)) <= but

        try:
            wait_until(finished, PATIENCE)
        except TimeoutError:
            ran = {key: self._truth.attempts(key) for key in pending}
            logs = "\n".join(process.log()[-2000:] for process in self._worker)
            raise TimeoutError(f"never ran to its end: {ran}\n{logs}") from None

    def _settle(self, *phases: str) -> None:
        """Wait until all of these loads is exported, and for one more export of the metrics."""
        if not self._plan.ours:
            return
        received = self.collector.received
        with suppress(TimeoutError):  # the comparison says what is missing
            wait_until(lambda: not self._compare(phases).missing, PATIENCE)
        running = {process.name for process in self._worker if process.running()}
        running |= {"caller"} if self._callers else set()
        running &= {point.service for point in received.latest()}
        moment = max((point.time for point in received.latest()), default=0)

        def exported(_: object) -> bool:
            return {p.service for p in received.latest() if p.time > moment} >= running

        with suppress(TimeoutError):
            received.wait_for(exported, PATIENCE)

    def _compare(self, phases: str | tuple[str, ...]) -> Difference:
        fault, queue = self._fault, self._queue
        killed = self._killed | self._killed_by_tasks()

        def during(attempt: Attempt) -> bool:
            return attempt.key.startswith(DURING)

        def taken_along(attempt: Attempt) -> bool:
            """Whether the end of its process may have taken its telemetry along."""
            reported = queue.reports_killed and not attempt.how
            return queue.own_export and attempt.pid in killed and not reported

        allowed = Allowance(
            phases=tuple(phases),
            all=len(phases) == len(PHASES),
            shaken=DURING if self._plan.shaken else "",
            span=lambda attempt: (fault.spans and during(attempt)) or taken_along(attempt),
            count=lambda attempt: (
                during(attempt)
                and (fault.counts or (not queue.reports_killed and taken_along(attempt)))
            ),
            slack=queue.held if self._plan.shaken else 0,
        )
        return compare(
            self._truth,
            self.collector.received,
            self._plan.queue,
            allowed,
        )

    def _killed_by_tasks(self) -> set[int]:
        killed = [k for load in self._loads.values() for n, k in load if n == tasks.KILLED]
        return {attempt.pid for key in killed for attempt in self._truth.attempts(key)}

    # Their environment

    def _instrument(self, *, ours: bool) -> list[str]:
        return [str(BIN / "opentelemetry-instrument")] if ours else []

    def _env(self, name: str) -> dict[str, str]:
        env = {
            "SOAK_BROKER": self._library.broker,
            FOLDER: str(self.folder),
            SERVICE: name,
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        if not self._plan.ours:
            return env
        # The handler that `logging` puts on the root logger makes RQ keep quiet.
        env["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "celery,fastapi,logging,redis"
        protocol = {"OTEL_EXPORTER_OTLP_PROTOCOL": self._plan.protocol}
        return env | otel_env(self.collector, name, **protocol) | dict(self._fault.env)
