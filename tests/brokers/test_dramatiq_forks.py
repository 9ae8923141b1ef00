"""Processes of Dramatiq that run no tasks: what they submit is not lost either."""

import signal

from otel_queue_bridge.otlp import Receiver
from tests.brokers.shop import ROOT
from tests.servers import Processes, otel_env

TASKS = 3
APP = "tests.brokers.dramatiq_fork_app"
RARELY = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}


def test_what_a_fork_function_submits_is_exported_when_it_is_told_to_stop(
    redis_url: str, receiver: Receiver, processes: Processes
) -> None:
    command = ["opentelemetry-instrument", "dramatiq", APP, "-p", "1", "-t", "1"]
    worker = processes.start(
        "worker",
        [*command, "--fork-function", f"{APP}:feed"],
        env=otel_env(receiver, "worker")
        | {"APP_BROKER": redis_url, "APP_TASKS": str(TASKS), "PYTHONPATH": str(ROOT)}
        | RARELY,
        ready="fed",
        cwd=ROOT,
    )
    worker.wait_for_handler(signal.SIGTERM)
    assert worker.stop(signal.SIGTERM) == 0
    submits = [span for span in receiver.spans() if span.name == "submit ok"]
    assert len(submits) == TASKS
    counted = [point.value for point in receiver.latest() if point.metric == "task.submitted"]
    assert sum(counted) == TASKS
