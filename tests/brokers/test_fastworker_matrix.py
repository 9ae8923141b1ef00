"""FastWorker with and without us at every hop: all tasks run, in one trace where possible."""

import json
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from otel_queue_bridge.otlp import Receiver, Span
from tests.servers import LIMIT, Process, Processes, otel_env

pytestmark = pytest.mark.skipif(not find_spec("fastworker"), reason="FastWorker needs Python 3.12")

ROOT = Path(__file__).parents[2]
APP = "tests.brokers.fastworker_matrix_app"
TASKS = ("later", "failing", "at_once")
KWARGS = {"a": 1, "text": "Grüße", "nested": {"b": [None, 1.5, True]}}
ALONE = "-"
"""There is no subworker: the control plane runs its tasks itself."""

# I: under `opentelemetry-instrument`, U: without us. An uninstrumented control plane passes on only
# the fields of a task that it knows: the carrier ends there.
MATRIX = {
    # client, control plane, subworker
    "I I -": "client submit > plane dispatch > plane execute",
    "U I -": "plane dispatch > plane execute",
    "I I I": "client submit > plane dispatch > subworker execute",
    "U I I": "plane dispatch > subworker execute",
    "I I U": "client submit > plane dispatch",
    "U I U": "plane dispatch",
    "I U -": "client submit",
    "U U -": "",
    "I U I": "client submit, subworker execute",
    "U U I": "subworker execute",
    "I U U": "client submit",
    "U U U": "",
}


class Plane:
    """A control plane, and one subworker that is started when it is first needed."""

    def __init__(self, matrix: "Matrix", mode: str, serialization: str) -> None:
        from tests.fastworker import ControlPlane

        ports = ControlPlane(APP)
        self._matrix = matrix
        self._serialization = serialization
        self._subworker = ports.subworker("sw1")
        self._mode = ALONE
        self._executor = matrix.start(
            "plane", mode, ports.command(), ready=ports.ready, serialization=serialization
        )
        self.address = ports.address

    def fits(self, mode: str) -> bool:
        # A lost subworker is not forgotten soon, but a new one with its name replaces it.
        return mode != ALONE or self._mode == ALONE

    def executor(self, mode: str) -> Process:
        """Return the process that runs the tasks: a subworker of this mode or the control plane."""
        if mode != self._mode:
            if self._mode != ALONE:
                self._executor.stop(signal.SIGKILL)
            command, ready = self._subworker
            self._mode = mode
            self._executor = self._matrix.start(
                "subworker", mode, command, ready=ready, serialization=self._serialization
            )
        return self._executor


class Matrix:
    """Processes of every mode; each control plane serves as many cells as it can."""

    def __init__(self, processes: Processes, receiver: Receiver) -> None:
        self._processes = processes
        self._receiver = receiver
        self._planes: dict[tuple[str, str], Plane] = {}

    def start(
        self, name: str, mode: str, command: list[str], *, serialization: str, ready: str = ""
    ) -> Process:
        return self._processes.start(
            name,
            [*(["opentelemetry-instrument"] if mode == "I" else []), *command],
            env=otel_env(
                self._receiver,
                name,
                PYTHONPATH=str(ROOT),
                FASTWORKER_SERIALIZATION_FORMAT=serialization,
            ),
            ready=ready or None,
            cwd=ROOT,
        )

    def run(self, cell: str, serialization: str) -> tuple[int, dict[str, list[str]]]:
        """Submit each task once; return the executor's process and the results of the client."""
        client, plane, subworker = cell.split()
        key = (plane, serialization)
        if key not in self._planes or not self._planes[key].fits(subworker):
            self._planes[key] = Plane(self, plane, serialization)
        executor = self._planes[key].executor(subworker)
        command = [sys.executable, "-m", APP, self._planes[key].address, json.dumps(KWARGS)]
        process = self.start("client", client, command, serialization=serialization)
        assert process.wait() == 0, process.log()
        told = [json.loads(line) for line in process.log().splitlines() if line.startswith('["')]
        return executor.pid, {name: answer for name, *answer in told}

    def paths(self, task_id: str, count: int) -> list[str]:
        """Wait for this many spans of a task's traces; return each with all spans above it."""

        def mine(spans: list[Span]) -> list[Span]:
            of_it = [s for s in spans if s.attributes.get("messaging.message.id") == task_id]
            traces = {span.trace_id for span in of_it}
            return [span for span in spans if span.trace_id in traces]

        spans = mine(self._receiver.wait_for(lambda spans: len(mine(spans)) >= count, LIMIT))
        by_id = {span.span_id: span for span in spans}

        def path(span: Span) -> str:
            above = f"{path(by_id[span.parent_id])} > " if span.parent_id else ""
            return f"{above}{span.service} {span.name.split()[0]}"

        return sorted(map(path, spans))


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    processes = Processes(tmp_path_factory.mktemp("matrix"))
    with Receiver() as receiver:
        yield Matrix(processes, receiver)
        processes.stop(grace=0)  # no signal ends a control plane
    for process in processes.started:
        assert "went through without telemetry" not in process.log()


def expected(cell: str) -> list[str]:
    """Return all paths of a cell: each submit asks a control plane, each dispatch a subworker."""
    found = []
    for chain in filter(None, MATRIX[cell].split(", ")):
        steps = chain.split(" > ")
        for number, step in enumerate(steps, 1):
            path = " > ".join(steps[:number])
            found.append(path)
            service, operation = step.split()
            if operation == "submit" or (operation == "dispatch" and not cell.endswith(ALONE)):
                found.append(f"{path} > {service} nng.req_reply")
    return sorted(found)


@pytest.mark.parametrize(
    ("cell", "serialization"),
    [*((cell, "JSON") for cell in MATRIX), ("I I I", "PICKLE"), ("U I U", "PICKLE")],
)
def test_every_task_runs_as_ever_and_joins_the_trace_as_far_as_we_are_there(
    matrix: Matrix, cell: str, serialization: str
) -> None:
    executor, told = matrix.run(cell, serialization)
    ran = [executor, KWARGS]
    assert {name: answer[1:] for name, answer in told.items()} == {
        "later": ["success", ran, None],
        "at_once": ["success", ran, None],
        "failing": ["failure", None, json.dumps(ran)],
    }
    paths = expected(cell)
    found = {name: matrix.paths(task_id, len(paths)) for name, (task_id, *_) in told.items()}
    assert found == dict.fromkeys(TASKS, paths)
