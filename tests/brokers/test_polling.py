"""With an instrumentation of Redis beside us, an idle worker makes no spans; a task's calls do."""

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from redis import Redis
from rq import Callback, Queue, SimpleWorker
from rq.executions import Execution
from rq.registry import StartedJobRegistry

from otel_queue_bridge import instrument, uninstrument
from otel_queue_bridge.otlp import Receiver, Span
from tests.brokers import polling_callbacks
from tests.brokers.shop import ROOT, paths
from tests.servers import Process, Processes, Valkey, otel_env, wait_until

APP = "tests.brokers.polling_app"
CELERY = ["celery", "-A", APP, "worker", "-c", "1", "-P"]
WORKERS: dict[str, tuple[str, list[str], str, int]] = {
    "celery": ("celery", [*CELERY, "prefork"], "publish", 4),
    "celery solo": ("celery", [*CELERY, "solo"], "publish", 4),
    "dramatiq": ("dramatiq", ["dramatiq", APP, "-p", "1", "-t", "2"], "evalsha", 20),
    "rq": (
        "rq",
        ["rq", "worker", "--with-scheduler", "--worker-ttl", "16", "--maintenance-interval", "1"],
        "blmove",
        4,
    ),
}
"""The app's task, a worker for it, and how often an idle one makes which call before we look on."""
OF_ITS_OWN = {
    "celery": {"ZADD HSET": 1, "ZREM HDEL": 1},  # its loop takes and acknowledges a message
    "dramatiq": {},
    "rq": {"EXISTS": 1},  # of the command, before there is a worker
}


class Fleet:
    """A worker with an instrumented Redis client, and a caller."""

    def __init__(self, valkey: Valkey, receiver: Receiver, processes: Processes) -> None:
        self._valkey = valkey
        self._processes = processes
        self.receiver = receiver
        self.env = {
            "APP_BROKER": valkey.url,
            "PYTHONPATH": str(ROOT),
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,logging",
        }

    def start(self, command: list[str], **env: str) -> Process:
        url = ["--url", self._valkey.url] if command[0] == "rq" else []
        return self._processes.start(
            "worker",
            ["opentelemetry-instrument", *command, *url],
            env=otel_env(self.receiver, "worker") | self.env | env,
            cwd=ROOT,
        )

    def wait_while_idle(self, call: str, times: int) -> None:
        wait_until(lambda: self._calls(call) >= times, what=f"{call} of an idle worker")

    def _calls(self, call: str) -> int:
        with self._valkey.client() as client:
            stats: Any = client.info("commandstats")
        return int(stats.get(f"cmdstat_{call}", {}).get("calls", 0))

    def submit(self, task: str) -> None:
        command = ["opentelemetry-instrument", sys.executable, "-m", APP, task]
        env = self.env | otel_env(self.receiver, "caller")
        caller = self._processes.start("caller", command, env=env, cwd=ROOT)
        assert caller.wait() == 0, caller.log()

    def stop(self, worker: Process) -> list[Span]:
        os.kill(worker.pid, signal.SIGTERM)
        assert worker.wait() == 0, worker.log()
        return self.receiver.spans()


@pytest.fixture
def fleet(
    valkey: Valkey, redis_url: str, receiver: Receiver, processes: Processes, tmp_path: Path
) -> Fleet:
    with valkey.client() as client:
        client.config_resetstat()
    return Fleet(valkey, receiver, processes)


@pytest.mark.parametrize(("task", "command", "call", "times"), WORKERS.values(), ids=WORKERS)
def test_an_idle_worker_makes_no_spans(
    fleet: Fleet, task: str, command: list[str], call: str, times: int
) -> None:
    worker = fleet.start(command)
    fleet.wait_while_idle(call, times)
    fleet.submit(task)
    executes = 2 if task == "dramatiq" else 1
    fleet.receiver.wait_for(
        lambda spans: sum(span.name.startswith("execute") for span in spans) == executes, 60
    )
    spans = fleet.stop(worker)
    roots = Counter(span.name for span in spans if not span.parent_id)
    submitted = {name: count for name, count in roots.items() if name.startswith("submit")}
    assert sum(submitted.values()) == executes
    assert roots - Counter(submitted) == OF_ITS_OWN[task]

    lines = paths(spans, lambda span: span.name.split()[0])
    found = Counter((span.service, lines[span.span_id].rpartition(" > ")[0]) for span in spans)
    assert found["caller", "submit"] >= executes, "the broker's calls of a submit"
    run = "submit > dispatch > execute"
    assert sum(lines[span.span_id] == f"{run} > GET" for span in spans) == executes
    if task != "celery":
        assert found["worker", run] > executes, "the acknowledgement beside the user's own call"


def test_the_option_shows_it_all(fleet: Fleet) -> None:
    _, command, call, times = WORKERS["dramatiq"]
    worker = fleet.start(command, OTEL_PYTHON_QUEUE_BRIDGE_SUPPRESS_POLLING="false")
    fleet.wait_while_idle(call, times)
    roots = Counter(span.name for span in fleet.stop(worker))
    assert roots["EVALSHA"] >= times


def test_maintenance_does_not_hide_what_a_callback_does(redis_url: str) -> None:
    polling_callbacks.called.clear()
    instrument("rq", tracer_provider=TracerProvider())
    try:
        with Redis.from_url(redis_url) as connection:
            queue = Queue(connection=connection)
            job = queue.enqueue(polling_callbacks.job, on_failure=Callback(polling_callbacks.fail))
            queue.connection.delete(queue.key)
            job.set_status("started")
            registry = StartedJobRegistry(queue.name, connection=connection)
            execution = Execution("gone", job.id, connection=connection)
            connection.zadd(registry.key, {execution.composite_key: time.time() - 1})
            SimpleWorker([queue], connection=connection).run_maintenance_tasks()
    finally:
        uninstrument()
    assert polling_callbacks.called == [True]
