"""Real processes for tests: none of them is left behind, however the test run ends.

Run as a file, this is what cleans up behind a test run that was killed.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import Self

T = TypeVar("T")

# Everything that is started carries this variable, and so does all that comes of it: also an RQ
# work-horse, which leaves its process group, and what has lost its parent.
MARK = "STARTED_BY_TEST_RUN"
RUN = os.environ.get(MARK, "") + uuid.uuid4().hex  # a run inside of another carries its mark, too
PROC = Path("/proc")
BIN = Path(sys.executable).parent
_numbers = itertools.count()

LIMIT = 90.0
"""Seconds to wait for what must come: far more than it takes, since a busy machine is no failure.

Celery alone may take 31 to stop: a child that runs what a stopping worker has given back waits in
vain for its result to be read (billiard 4.3 `_ensure_messages_consumed`; without us, 2 of 119 did).
"""


def wait_until(condition: Callable[[], T], timeout: float = LIMIT, what: str = "") -> T:
    """Return the first truthy result of `condition`."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout:g} s: {what or condition}")
        time.sleep(0.02)
    return result


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


class Endpoint(Protocol):
    @property
    def endpoint(self) -> str: ...


def otel_env(receiver: Endpoint, service: str, **options: str) -> dict[str, str]:
    """What a process needs to export to `receiver`, soon; `options` add to it or replace it."""
    return {
        "OTEL_SERVICE_NAME": service,
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "NO_PROXY": "127.0.0.1",
    } | options


def _alive(sessions: set[int], mark: str) -> set[int]:
    """Every living process of these sessions or with this mark (some programs overwrite theirs)."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for folder in PROC.glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            ours = int(session) in sessions or wanted in (folder / "environ").read_bytes()
            if ours and state != "Z":
                found.add(int(folder.name))
    return found


def _signal(pids: set[int], number: int) -> bool:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return bool(pids)


@cache
def _reaper() -> subprocess.Popen[bytes]:
    """Start what cleans up behind a killed test run: it reads our sessions, and ends with us."""
    command = [sys.executable, __file__, RUN]
    # Whoever kills all that has our mark must spare it, or nobody would clean up.
    env = {key: value for key, value in os.environ.items() if key != MARK}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, bufsize=0, start_new_session=True, env=env
    )


def _report(session: int) -> None:
    """Have this session killed if we are, or, if negative, no more."""
    sessions = _reaper().stdin
    assert sessions
    sessions.write(b"%d\n" % session)


class Process:
    """One program started by a test, and all that comes of it."""

    def __init__(
        self, name: str, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path
    ) -> None:
        _reaper()  # first of all
        self.name = name
        self._log = log
        self._mark = f"{RUN}.{next(_numbers)}."
        outer = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
        scripts = f"{Path(sys.executable).parent}{os.pathsep}{outer.get('PATH', os.defpath)}"
        with log.open("wb") as output:
            self._popen = subprocess.Popen(
                command,
                cwd=cwd,
                env=outer
                | {"PATH": scripts, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
                | {MARK: self._mark}
                | dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._popen.pid
        _report(self.pid)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def running(self) -> bool:
        return self._exit_code() is None

    def _exit_code(self) -> int | None:
        # Not poll(): it would free the number, of which others may make a session of theirs.
        if self._popen.returncode is not None or not PROC.is_dir():
            return self._popen.poll()
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def members(self) -> set[int]:
        """Return the processes alive: itself, its children and theirs, wherever they have moved."""
        if self._popen.returncode is not None:
            return set()
        if PROC.is_dir():
            return _alive({self.pid}, self._mark)
        return {self.pid} if self.running() else set()

    def _lacks(self, pid: int) -> bool:
        return pid not in self.members()

    def wait_for(self, ready: str | Callable[[], object], timeout: float = LIMIT) -> None:
        """Wait for this text in the log, or this condition; fail at once if it ends before."""
        text = ready
        condition = (lambda: text in self.log()) if isinstance(text, str) else text
        try:
            wait_until(lambda: condition() or not self.running(), timeout, str(ready))
        except TimeoutError as error:
            raise TimeoutError(f"{self.name}: {error}{self._tail()}") from None
        if not condition():
            raise RuntimeError(
                f"{self.name} ended with {self._exit_code()} before: {ready}{self._tail()}"
            )

    def wait(self, timeout: float = LIMIT) -> int:
        """Wait for the end of the program itself; return its exit code."""
        try:
            wait_until(lambda: not self.running(), timeout)
        except TimeoutError:
            # Python writes down where it is; children first, whom the program may wait for.
            for pid in sorted(self.members(), key=lambda pid: (pid == self.pid, pid)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGABRT)
                with suppress(TimeoutError):
                    wait_until(partial(self._lacks, pid), LIMIT / 3)
            raise TimeoutError(
                f"{self.name} still runs after {timeout:g} s{self._tail(400)}"
            ) from None
        code = self._exit_code()
        assert code is not None
        return code

    def stop(self, number: int = signal.SIGTERM, timeout: float = LIMIT) -> int:
        """Send the program itself a signal, as a supervisor would; return its exit code."""
        if self.running():
            os.kill(self.pid, number)
        return self.wait(timeout)

    def forget(self) -> None:
        """Free its number, when all of it has ended."""
        if self._popen.returncode is not None:
            return
        _report(-self.pid)
        self._popen.wait()

    def signal_all(self, number: int) -> bool:
        """Signal all members; return whether there were any."""
        if PROC.is_dir():
            return _signal(self.members(), number)
        if alive := self.running():
            os.killpg(self.pid, number)
        return alive

    def wait_for_handler(self, number: int) -> None:
        """Wait until it handles this signal, which would kill it before."""
        if not PROC.is_dir():
            return

        def handled() -> bool:
            status = (PROC / str(self.pid) / "status").read_text()
            (caught,) = (line for line in status.splitlines() if line.startswith("SigCgt:"))
            return bool(int(caught.split()[1], 16) >> (number - 1) & 1)

        self.wait_for(handled)

    def lose_power(self) -> None:
        """Kill all members at the same moment: none sees another one die."""
        self.signal_all(signal.SIGSTOP)
        self.signal_all(signal.SIGKILL)
        wait_until(lambda: not self.members(), what=f"{self.name} is dead")

    def _tail(self, lines: int = 40) -> str:
        end = self.log().splitlines()[-lines:]
        return "\n" + "\n".join([f"--- end of {self.name}'s log:", *end])


class Processes:
    """What one test, or the whole run, has started."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[Process] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop(grace=0)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        ready: str | Callable[[], object] | None = None,
        timeout: float = LIMIT,
        cwd: Path | None = None,
    ) -> Process:
        """Start `command`; with `ready`, return when its log has that text or that condition holds.

        The environment is the outer one without OpenTelemetry's variables, and `env`.
        """
        log = self._folder / f"{name}-{len(self.started)}.log"
        process = Process(name, command, env=env or {}, cwd=cwd or self._folder, log=log)
        self.started.append(process)
        if ready is not None:
            process.wait_for(ready, timeout)
        return process

    def stop(self, grace: float = 3.0) -> None:
        """End everything: politely first, then for sure."""
        if self._signal_all(signal.SIGTERM):
            with suppress(TimeoutError):
                wait_until(lambda: not self._signal_all(0), grace)
        wait_until(lambda: not self._signal_all(signal.SIGKILL), what="all processes are dead")
        for process in self.started:
            process.forget()

    def _signal_all(self, number: int) -> bool:
        return any([process.signal_all(number) for process in self.started])  # noqa: C419 - all of them


class Caller:
    """A process that submits on demand; it ends with its input, so with us."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], log: Path, cwd: Path | None = None
    ) -> None:
        outer = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                env=outer | dict(env),
                cwd=cwd,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                bufsize=1,
            )
        assert self._process.stdin
        assert self._process.stdout
        self._questions, self._answers = self._process.stdin, self._process.stdout
        self._log = log

    def ask(self, question: dict[str, Any] | None) -> Any:
        if question is not None:
            self._questions.write(json.dumps(question) + "\n")
        answer = self._answers.readline()
        assert answer, f"the caller ended:\n{self._log.read_text()}"
        return json.loads(answer)

    def stop(self) -> None:
        """End its input: it exports what it has and ends."""
        self._questions.close()
        self._process.wait()
        self._answers.close()


if __name__ == "__main__":  # the reaper
    told = [int(line) for line in sys.stdin]
    sessions = {pid for pid in told if told.count(pid) > told.count(-pid)}
    while _signal(_alive(sessions, sys.argv[1]), signal.SIGKILL):
        time.sleep(0.02)
