"""Dashboards and alerts on real workers, which a real Prometheus asks, in all vocabularies."""

import json
import math
import re
import shutil
import signal
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import redis

from dashboards.names import QUEUE, SYSTEM, Names
from dashboards.queries import BY_TASK, Over, Queries
from dashboards.rules import rules
from otel_queue_bridge.semconv import (
    DEAD,
    DEPTH,
    DISPATCHED,
    DURATION,
    NAMINGS,
    SUBMITTED,
    Metric,
    Naming,
)
from otel_queue_bridge.testing.processes import BIN, Caller
from tests.brokers.shop import ROOT
from tests.servers import Process, Processes, Valkey, absent, free_port, wait_until
from tests.test_dashboards import BOARDS, naming_of, panels

APP = "tests.brokers.monitored_app"
SYSTEMS = ("celery", "dramatiq", "rq")
FASTER = 60
"""The rules' minutes are seconds here."""
PAUSE = 0.3
"""Seconds between two looks: it evaluates once a second."""
WINDOW = "15s"
LACKS = {DEAD: {"celery"}}
"""The libraries that have nothing to report."""
COMMANDS = {
    "celery": ["celery", "-A", APP, "worker", "-P", "prefork", "-c", "2", "-l", "info"],
    "dramatiq": ["dramatiq", APP, "-p", "1", "-t", "2"],
    "rq": ["rq", "worker", "shop", "-w", "rq.worker.SimpleWorker"],  # no fork for each of so many
}
READY = {"celery": " ready.", "dramatiq": "Worker process is ready", "rq": "Listening on"}


class Prometheus:
    """It asks each of our processes every second, and evaluates the rules of all vocabularies."""

    def __init__(self, processes: Processes, folder: Path, targets: list[int]) -> None:
        program = shutil.which("prometheus")
        if program is None:
            absent("prometheus (Debian's package of that name)")
        for naming in NAMINGS:
            (folder / f"{naming}.yml").write_text(rules(naming, FASTER))
        asked = [
            # One job for each, as where each deployment has its own.
            {"job_name": str(port), "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for port in targets
        ]
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [f"{naming}.yml" for naming in NAMINGS],
            "scrape_configs": asked,
        }
        (folder / "prometheus.yml").write_text(json.dumps(configuration))  # JSON is YAML, too
        self._port = free_port()
        processes.start(
            "prometheus",
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self._port}",
                "--log.level=warn",
            ],
            ready=self._ready,
        )

    def _ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except URLError:
            return False

    def _ask(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urlencode(parameters)}"
        with urlopen(url, timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Return the labels and the value of each series that has one."""
        found = [
            (one["metric"], float(one["value"][1]))
            for one in self._ask("query", query=expression)["result"]
        ]
        return [(labels, value) for labels, value in found if not math.isnan(value)]

    def firing(self) -> set[tuple[str, str, str]]:
        """Return what fires, as vocabulary, alert, library."""
        return {
            (Path(group["file"]).stem, rule["name"], alert["labels"][SYSTEM])
            for group in self._ask("rules", type="alert")["groups"]
            for rule in group["rules"]
            for alert in rule["alerts"]
            if alert["state"] == "firing"
        }


class Fleet:
    """Workers of three libraries and a caller, in each vocabulary, and Prometheus."""

    def __init__(self, processes: Processes, valkey: Valkey, folder: Path) -> None:
        self.targets: list[int] = []
        self._processes = processes
        self._folder = folder
        self._url = valkey.url.rpartition("/")[0]
        self.workers = {
            (naming, system): self._worker(naming, system)
            for naming in NAMINGS
            for system in SYSTEMS
        }
        for (_, system), worker in self.workers.items():
            worker.wait_for(READY[system])
        self.callers = {naming: self._caller(naming) for naming in NAMINGS}
        try:
            self.prometheus = Prometheus(processes, folder, self.targets)
        except BaseException:
            self.stop()
            raise

    def urls(self, naming: Naming) -> dict[str, str]:
        first = NAMINGS.index(naming) * len(SYSTEMS)
        return {system: f"{self._url}/{first + n}" for n, system in enumerate(SYSTEMS)}

    def _env(self, naming: Naming, **more: str) -> dict[str, str]:
        self.targets.append(free_port())
        return {
            "APP_URLS": json.dumps(self.urls(naming)),
            "NO_PROXY": "127.0.0.1",
            "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(self.targets[-1]),
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "prometheus",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,logging,redis",
            "OTEL_PYTHON_QUEUE_BRIDGE_NAMING": naming,
            "OTEL_TRACES_EXPORTER": "none",
            "PYTHONPATH": str(ROOT),
            **more,
        }

    def _worker(self, naming: Naming, system: str) -> Process:
        env = self._env(naming, APP_SYSTEM=system)
        if system == "dramatiq":  # the main process has the port, but the other one runs the tasks
            env["APP_PORT"] = env["OTEL_EXPORTER_PROMETHEUS_PORT"]
            env["OTEL_EXPORTER_PROMETHEUS_PORT"] = str(free_port())
        url = ["--url", self.urls(naming)["rq"]] if system == "rq" else []
        command = ["opentelemetry-instrument", *COMMANDS[system], *url]
        return self._processes.start(f"{naming}-{system}", command, env=env, cwd=ROOT)

    def _caller(self, naming: Naming) -> Caller:
        command = [str(BIN / "opentelemetry-instrument"), str(BIN / "python"), "-m", APP]
        return Caller(command, self._env(naming), self._folder / f"{naming}-caller.log", cwd=ROOT)

    def submit(self, task: str, number: int = 1) -> None:
        """Submit so many tasks to each library, in each vocabulary; `load` begins to."""
        for caller in self.callers.values():
            caller.ask({"task": task, "number": number})

    def release(self) -> None:
        """Let the tasks that block end."""
        for naming in NAMINGS:
            with redis.Redis.from_url(self.urls(naming)["rq"]) as client:
                client.set("released", 1)

    def stop(self) -> None:
        for caller in self.callers.values():
            caller.stop()


@pytest.fixture
def fleet(processes: Processes, tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(processes, Valkey(processes, tmp_path), tmp_path)
    yield fleet
    fleet.stop()


def unanswered(prometheus: Prometheus) -> list[str]:
    """Return the queries of dashboards that some library has no answer to."""
    found = []
    for board in BOARDS:
        names = Names(naming_of(board))
        for panel in panels(board):
            for target in panel["targets"]:
                about = [
                    metric
                    for metric in LACKS
                    if names.has(metric) and names.series(metric) in target["expr"]
                ]
                expression = re.sub(r'=~?"\$(system|queue|task)"', '=~".+"', target["expr"])
                expression = expression.replace("$__rate_interval", WINDOW)
                answers = [labels for labels, _ in prometheus.query(expression)]
                systems = {labels[SYSTEM] for labels in answers if SYSTEM in labels} or set(SYSTEMS)
                lacks = set().union(*(LACKS.get(metric, ()) for metric in about))
                if not answers or systems | lacks != set(SYSTEMS):
                    found.append(f"{names.naming} {board.stem}: {panel['title']}: {expression}")
    return found


def everywhere(*alerts: str) -> set[tuple[str, str, str]]:
    """Return where these alerts fire, as `Prometheus.firing` has it."""
    lacks = {("TaskDeadLetters", system) for system in LACKS[DEAD]}
    return {
        (naming, alert, system)
        for naming in NAMINGS
        for alert in alerts
        for system in SYSTEMS
        if f"alert: {alert}\n" in rules(naming) and (alert, system) not in lacks
    }


def queues(prometheus: Prometheus, names: Names, metric: Metric, part: str = "") -> set[str]:
    answers = prometheus.query(f"count by ({QUEUE}) ({names.select(metric, {}, part)})")
    return {labels[QUEUE] for labels, _ in answers}


@contextmanager
def failing_with(missing: Collection[object]) -> Iterator[None]:
    """Say what is still missing when the time is over."""
    try:
        yield
    except TimeoutError:
        pytest.fail(f"missing: {missing}")


def test_dashboards_and_alerts(fleet: Fleet) -> None:
    prometheus = fleet.prometheus
    allowed: set[tuple[str, str, str]] = set()

    def fires(*alerts: str, also: tuple[str, ...] = ()) -> None:
        """Wait until these fire for each library; none does that had no cause so far."""
        allowed.update(everywhere(*alerts, *also))
        missing = everywhere(*alerts)

        def seen() -> bool:
            time.sleep(PAUSE)
            firing = prometheus.firing()
            assert firing <= allowed
            missing.difference_update(firing)  # one may have ended before another begins
            return not missing

        with failing_with(missing):
            wait_until(seen)

    def counted() -> int:
        """Return how many pairs of a vocabulary and a library have ended what there is."""
        ended = [
            Queries(naming).completed(Over("last_over_time", "1m"), BY_TASK) for naming in NAMINGS
        ]
        return sum(len(prometheus.query(expression)) for expression in ended)

    # A counter rises only for those who saw it before.
    for task in ("succeed", "fail", "retry"):
        fleet.submit(task)
    wait_until(lambda: counted() == 3 * len(NAMINGS) * len(SYSTEMS))
    fleet.submit("load")
    for task in ("fail", "retry"):
        fleet.submit(task)
    allowed |= everywhere("TaskDeadLetters")
    lack: list[str] = []

    def answered() -> bool:
        lack[:] = unanswered(prometheus)
        return not lack

    with failing_with(lack):
        wait_until(answered)
    assert prometheus.firing() <= allowed
    for names in map(Names, NAMINGS):
        assert queues(prometheus, names, SUBMITTED) == {"shop"}
        assert queues(prometheus, names, DISPATCHED) == {"shop"}
        assert queues(prometheus, names, DURATION, "count") == {"shop"}
        assert not names.has(DEPTH) or queues(prometheus, names, DEPTH) == {"shop"}

    # Twice what the alerts ask for in ten seconds, so that it is enough for long enough.
    fleet.submit("fail", 45)
    fleet.submit("retry", 9)
    # So many at once have to wait, on a slow machine; a minute is a second here.
    slow = ("TaskWaitLong", "TaskQueueStuck", "TaskBacklogGrowing", "TaskOldestWaits")
    fires("TaskFailures", "TaskRetryStorm", "TaskDeadLetters", also=slow)

    # What waited then is a backlog, too: a growth begins low.
    for names in (Names("task"), Names("system")):
        waited = f"max_over_time({names.select(DEPTH, {})}[30s])"
        wait_until(lambda waited=waited: all(n < 5 for _, n in prometheus.query(waited)))
    fleet.submit("block", 2)
    fleet.submit("succeed", 60)
    fires(
        "TaskQueueStuck",
        "TaskBacklogGrowing",
        "TaskNotCompleted",
        "TaskWorkersSaturated",
        "TaskOldestWaits",
    )

    fleet.release()
    fires("TaskWaitLong")
    stuck = everywhere("TaskQueueStuck")
    wait_until(lambda: not stuck & prometheus.firing(), what="nothing is stuck any more")

    for worker in fleet.workers.values():
        worker.signal_all(signal.SIGKILL)
    fires("TaskWorkersGone")
