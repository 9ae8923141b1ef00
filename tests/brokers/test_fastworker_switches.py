"""The switches of FastWorker's instrumentation and of its own telemetry, in real processes."""

import json
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from otel_queue_bridge.instrumentor import adapters
from otel_queue_bridge.otlp import Receiver
from tests.servers import LIMIT, Process, Processes, otel_env, wait_until

pytestmark = pytest.mark.skipif(not find_spec("fastworker"), reason="FastWorker needs Python 3.12")

ROOT = Path(__file__).parents[2]
APP = "tests.brokers.fastworker_matrix_app"
SWITCH = "FASTWORKER_OTEL_ENABLED"
PREFIX = "OTEL_PYTHON_QUEUE_BRIDGE_"
THEIRS = {"FASTWORKER_TELEMETRY_ENABLED": "true", "APP_THEIRS": "shown"}
NEEDLESS = "celery,fastapi,redis,logging"
"""Instrumentations that `opentelemetry-instrument` need not load here."""
TOLD = {"later": "success", "failing": "failure", "at_once": "success"}
"""The results that a client gets, whatever is instrumented."""


class Site:
    """Control planes and clients under `opentelemetry-instrument`, which sets up the SDK."""

    def __init__(self, processes: Processes, receiver: Receiver) -> None:
        self.receiver = receiver
        self._processes = processes

    def _start(
        self, name: str, command: list[str], env: dict[str, str], ready: str = ""
    ) -> Process:
        common = {"PYTHONPATH": str(ROOT), "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": NEEDLESS}
        return self._processes.start(
            name,
            ["opentelemetry-instrument", *command],
            env=otel_env(self.receiver, name) | common | env,
            ready=ready or None,
            cwd=ROOT,
        )

    def control_plane(self, **env: str) -> tuple[Process, str]:
        from tests.fastworker import ControlPlane

        ports = ControlPlane(APP)
        return self._start("plane", ports.command(), env, ports.ready), ports.address

    def client(self, address: str, **env: str) -> Process:
        """Submit each task once, and wait for the client's end."""
        client = self._start("client", [sys.executable, "-m", APP, address, '{"a": 1}'], env)
        client.wait()
        return client

    def submitted(self) -> int:
        """Return how many of our spans a client that has ended made."""
        return sum(span.name.startswith("submit ") for span in self.receiver.spans())

    def scopes(self) -> set[str]:
        return {span.scope for span in self.receiver.spans()}

    def metrics(self, service: str) -> dict[str, float]:
        """Return the counts of one process over all tasks, by metric."""
        found: dict[str, float] = {}
        for point in self.receiver.latest():
            if point.service == service and point.kind == "sum":
                found[point.metric] = found.get(point.metric, 0) + point.value
        return found


def told(client: Process) -> dict[str, str]:
    lines = (line for line in client.log().splitlines() if line.startswith('["'))
    return {name: status for name, _, status, *_ in map(json.loads, lines)}


@pytest.fixture
def site(processes: Processes, receiver: Receiver) -> Site:
    return Site(processes, receiver)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of a control plane without us, which runs tasks itself."""
    from tests.fastworker import ControlPlane

    ports = ControlPlane(APP)
    processes = Processes(tmp_path_factory.mktemp("plain"))
    env = {"PYTHONPATH": str(ROOT)}
    processes.start("plane", ports.command(), env=env, ready=ports.ready, cwd=ROOT)
    yield ports.address
    processes.stop(grace=0)


@pytest.mark.parametrize(
    ("env", "on"),
    [
        ({}, True),
        ({SWITCH: ""}, True),
        ({SWITCH: "true"}, True),
        ({SWITCH: "False"}, False),
        ({SWITCH: "0", f"{PREFIX}QUEUES": "celery,fastworker"}, False),
        ({f"{PREFIX}QUEUES": "celery"}, False),
        ({f"{PREFIX}QUEUES": "celery", SWITCH: "true"}, True),
    ],
)
def test_under_the_loader_the_librarys_own_switch_counts_where_it_is_set(
    site: Site, plain: str, env: dict[str, str], *, on: bool
) -> None:
    client = site.client(plain, **env)
    assert told(client) == TOLD
    assert site.submitted() == (len(TOLD) if on else 0)
    assert "fastworker is" not in client.log()


def test_under_the_loader_another_word_is_one_error_and_the_queue_runs_on(site: Site) -> None:
    env = {SWITCH: "sometimes"}
    plane, address = site.control_plane(**env)
    client = site.client(address, **env)
    assert told(client) == TOLD
    error = f"fastworker is not instrumented: {SWITCH} is 'sometimes': allowed are true and false"
    for process in (client, plane):
        assert process.log().count(error) == 1
        assert process.log().count(SWITCH) == 1
    assert site.receiver.spans() == []


@pytest.mark.parametrize("queues", ["", "fastworker"])
@pytest.mark.parametrize(
    ("env", "on"),
    [
        ({}, True),
        ({SWITCH: "1"}, True),
        ({SWITCH: "false"}, False),
        ({SWITCH: "sometimes"}, None),
    ],
)
def test_in_code_it_counts_as_well_and_another_word_is_an_error(
    site: Site, plain: str, env: dict[str, str], queues: str, *, on: bool | None
) -> None:
    ours = ",".join(f"queue_bridge_{queue}" for queue in adapters())
    client = site.client(
        plain,
        **env,
        APP_QUEUES=queues,
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=f"{NEEDLESS},{ours}",
    )
    if on is None:
        assert told(client) == {}
        error = f"ConfigError: {SWITCH} is 'sometimes': allowed are true and false"
        assert client.log().rstrip().endswith(error)
    else:
        assert told(client) == TOLD
    assert site.submitted() == (len(TOLD) if on else 0)


def test_its_own_telemetry_is_replaced_and_one_line_says_so(site: Site) -> None:
    plane, address = site.control_plane(**THEIRS)
    client = site.client(address, **THEIRS)
    assert told(client) == TOLD
    wait_until(lambda: site.metrics("plane").get("task.completed") == len(TOLD))
    site.receiver.wait_for(lambda spans: len(spans) == len(TOLD) * 4, LIMIT)  # and nng.req_reply
    assert site.scopes() == {"otel_queue_bridge"}
    assert site.metrics("client") == {"task.submitted": len(TOLD)}
    assert not [name for name in site.metrics("plane") if name.startswith("theirs")]
    for process in (plane, client):
        assert process.log().count("FASTWORKER_TELEMETRY_ENABLED") == 1
        assert "replaced its own telemetry (FASTWORKER_TELEMETRY_ENABLED)" in process.log()


def test_fastworker_may_be_left_to_its_own_telemetry(site: Site) -> None:
    env = THEIRS | {f"{PREFIX}CONFLICTS": "yield"}
    plane, address = site.control_plane(**env)
    client = site.client(address, **env)
    assert told(client) == TOLD
    counted = {"theirs.completed": 2, "theirs.failed": 1}
    wait_until(lambda: site.metrics("plane") == counted)
    assert site.metrics("client") == {"theirs.submitted": 1}  # `delay` alone is recorded
    spans = site.receiver.wait_for(lambda spans: len(spans) == 4, LIMIT)
    assert sorted(span.name for span in spans) == [
        "client.submit_task",
        *["worker.execute_task"] * 3,
    ]
    assert site.scopes() == {"theirs"}
    for process in (plane, client):
        assert process.log().count("fastworker is left to its own telemetry") == 1
