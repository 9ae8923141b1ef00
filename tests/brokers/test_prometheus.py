"""Prometheus asks, and workers of several processes answer, or say why not."""

import sys
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from otel_queue_bridge.forks.pull import UNSERVED
from otel_queue_bridge.otlp import Receiver
from tests.brokers.shop import ROOT
from tests.servers import Process, Processes, free_port, otel_env, wait_until

NUMBER = 10
APP = "tests.brokers.prometheus_app"
WORKERS = {
    "dramatiq": ["dramatiq", APP, "-p", "2", "-t", "1"],
    "rq": ["rq", "worker-pool", "-n", "2", "-w", f"{APP}.ServingWorker"],
}


class Fleet:
    """Workers of two processes, and what each port says of them."""

    def __init__(self, system: str, url: str, receiver: Receiver, processes: Processes) -> None:
        self.main = free_port()
        self.own = [free_port(), free_port()]
        self._system = system
        self._url = ["--url", url] if system == "rq" else []
        self._processes = processes
        self._env = {
            **otel_env(receiver, "worker", OTEL_METRICS_EXPORTER="prometheus"),
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(self.main),
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,logging,redis",
            "APP_BROKER": url,
            "APP_PORTS": "",
            "PYTHONPATH": str(ROOT),
        }

    def start(self, *, serve: bool) -> Process:
        ports = ",".join(map(str, self.own)) if serve else ""
        return self._run("worker", [*WORKERS[self._system], *self._url], APP_PORTS=ports)

    def submit(self) -> None:
        command = [sys.executable, "-m", APP, self._system, str(NUMBER)]
        caller = self._run("caller", command, OTEL_METRICS_EXPORTER="none")
        assert caller.wait() == 0, caller.log()

    def _run(self, name: str, command: list[str], **env: str) -> Process:
        command = ["opentelemetry-instrument", *command]
        return self._processes.start(name, command, env=self._env | env, cwd=ROOT)


def scraped(port: int) -> str:
    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    except URLError:
        return ""


def completed(port: int) -> float:
    lines = [line for line in scraped(port).splitlines() if line.startswith("task_completed")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


@pytest.fixture(params=WORKERS)
def fleet(
    request: pytest.FixtureRequest, redis_url: str, receiver: Receiver, processes: Processes
) -> Fleet:
    return Fleet(request.param, redis_url, receiver, processes)


def executed(receiver: Receiver) -> None:
    receiver.wait_for(
        lambda spans: sum(span.name.startswith("execute") for span in spans) == NUMBER, 60
    )


def test_workers_that_nobody_can_ask_say_so(fleet: Fleet, receiver: Receiver) -> None:
    worker = fleet.start(serve=False)
    wait_until(lambda: worker.log().count(UNSERVED) == 2)
    fleet.submit()
    executed(receiver)
    assert "python_info" in scraped(fleet.main)
    assert completed(fleet.main) == 0
    assert worker.log().count(UNSERVED) == 2


def test_a_port_for_each_process_shows_every_task(fleet: Fleet, receiver: Receiver) -> None:
    worker = fleet.start(serve=True)
    wait_until(lambda: all(map(scraped, fleet.own)))
    fleet.submit()
    executed(receiver)
    wait_until(lambda: sum(map(completed, fleet.own)) == NUMBER)
    assert UNSERVED not in worker.log()
