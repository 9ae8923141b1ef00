"""Dramatiq's worker processes come and go: telemetry loses nothing and counts nothing twice."""

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pika
import pytest

from otel_queue_bridge.otlp import Point, Receiver, Span
from tests.brokers.forks import instances, of_metric, totals
from tests.brokers.shop import ROOT, Shop
from tests.servers import Process, Processes, otel_env

APP = "tests.brokers.dramatiq_app"
DEPTH = "task.queue.depth"
WORKERS = "task.workers.active"
BUSY = "task.workers.busy"
AT_THE_END = {"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_METRIC_EXPORT_INTERVAL": "600000"}
"""Nothing is exported without a flush."""
COMMANDS = {
    "fork": ["dramatiq"],
    "spawn": ["dramatiq", "--use-spawn"],
    "forkserver": [sys.executable, "-m", "tests.brokers.dramatiq_forkserver"],
}


class Workers(Shop):
    """The app of `dramatiq_app`, on workers of several processes."""

    def __init__(self, broker: str, receiver: Receiver, processes: Processes, folder: Path) -> None:
        super().__init__(broker, receiver, processes, folder, app=APP)
        self._gate = folder / "gate"
        self.env |= {
            "APP_GATE": str(self._gate),
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,redis,logging",
        }

    def start(
        self, method: str = "fork", processes: int = 2, threads: int = 4, **env: str
    ) -> Process:
        """Start a worker without waiting for it: there are messages for it already."""
        count = ("--processes", str(processes), "--threads", str(threads))
        return self._processes.start(
            "worker",
            ["opentelemetry-instrument", *COMMANDS[method], APP, *count],
            env=otel_env(self.receiver, "worker") | self.env | env,
            cwd=ROOT,
        )

    def stop(self, worker: Process) -> None:
        self.tell_to_stop(worker)
        assert worker.wait() == 0, worker.log()

    def tell_to_stop(self, worker: Process) -> None:
        worker.wait_for_handler(signal.SIGTERM)
        os.kill(worker.pid, signal.SIGTERM)

    def send(self, **messages: dict[str, Any]) -> None:
        """Send under `opentelemetry-instrument`, and wait until that process has exported."""
        command = ["opentelemetry-instrument", sys.executable, "-m", APP, json.dumps(messages)]
        env = self.env | otel_env(self.receiver, "caller")
        caller = self._processes.start("caller", command, env=env, cwd=ROOT)
        assert caller.wait() == 0, caller.log()

    def told(self, word: str) -> list[str]:
        return sorted(task_id for said, task_id in self.notes() if said == word)

    def open_gate(self) -> None:
        self._gate.touch()

    def named(self, name: str) -> list[Span]:
        return [span for span in self.receiver.spans() if span.name == name]

    def last(self, metric: str) -> list[dict[str, float]]:
        """Return the last values of a gauge in each worker process, by queue."""
        said: dict[str, dict[str, float]] = {}
        for point in of_metric(self.receiver.latest(), metric):
            queue = point.attributes.get("messaging.destination.name", "")
            said.setdefault(point.resource["service.instance.id"], {})[queue] = point.value
        return list(said.values())


@pytest.fixture
def shop(
    request: pytest.FixtureRequest, receiver: Receiver, processes: Processes, tmp_path: Path
) -> Workers:
    return Workers(request.getfixturevalue(request.param), receiver, processes, tmp_path)


on_each_broker = pytest.mark.parametrize("shop", ["redis_url", "amqp_url"], indirect=True)


def ids(spans: Iterable[Span]) -> list[str]:
    return sorted(span.attributes["messaging.message.id"] for span in spans)


def worker_points(receiver: Receiver) -> list[Point]:
    return [point for point in receiver.latest() if point.service == "worker"]


@pytest.mark.parametrize("method", COMMANDS)
@pytest.mark.parametrize("shop", ["redis_url"], indirect=True)
def test_as_many_in_as_out(shop: Workers, method: str) -> None:
    number = 100
    worker = shop.start(method, **AT_THE_END)
    shop.send(ok={"count": number})
    worker.wait_for(lambda: len(shop.told("ok")) == number)
    shop.stop(worker)
    for operation in ("submit", "dispatch", "execute"):
        assert ids(shop.named(f"{operation} ok")) == shop.told("ok")
    counts = totals(shop.receiver.latest())
    assert counts == Counter(
        {
            ("task.submitted", "ok"): number,
            ("task.dispatched", "ok"): number,
            ("task.completed", "ok", "success"): number,
            ("task.duration", "ok", "success"): number,
            ("task.wait", "ok"): number,
        }
    )
    assert_one_trace_each(shop, "ok")
    # Dramatiq's main process reports nothing, and neither does the forkserver.
    assert 1 <= len(instances(worker_points(shop.receiver), lambda _: True)) <= 2
    assert shop.receiver.rejected == []


def assert_one_trace_each(shop: Workers, name: str) -> None:
    spans = {span.span_id: span for span in shop.receiver.spans()}
    assert len(spans) == len(shop.receiver.spans())
    for execute in shop.named(f"execute {name}"):
        dispatch = spans[execute.parent_id]
        assert dispatch.name == f"dispatch {name}"
        assert spans[dispatch.parent_id].name == f"submit {name}"
        assert dispatch.attributes["messaging.message.id"] == ids([execute])[0]
        assert dispatch.end <= execute.end


@on_each_broker
def test_a_worker_that_is_told_to_stop_and_the_one_that_drains(shop: Workers) -> None:
    """It finishes what it runs, hands back what it holds, and reports all of it."""
    number, threads = 40, 8
    worker = shop.start(**AT_THE_END)
    shop.send(notified={}, gate={"count": number})
    worker.wait_for(lambda: len(shop.told("gate")) == threads)
    assert shop.told("passed") == []
    shop.tell_to_stop(worker)
    worker.wait_for(lambda: worker.log().count("Shutting down...") == 2)
    shop.open_gate()
    assert worker.wait() == 0
    assert_exact(shop, finished=False)
    handed_back = totals(shop.receiver.latest())["task.retried", "gate"]
    assert handed_back > 0

    second = shop.start(processes=1, **AT_THE_END)
    second.wait_for(lambda: len(shop.told("passed")) == number + 1)
    shop.stop(second)
    assert_exact(shop, finished=True)
    counts = totals(shop.receiver.latest())
    assert counts["task.submitted", "gate"] == counts["task.completed", "gate", "success"] == number
    assert counts["task.dispatched", "gate"] == number + handed_back
    assert_interrupted(shop)
    assert_one_trace_each(shop, "gate")
    assert shop.receiver.rejected == []


def assert_exact(shop: Workers, *, finished: bool) -> None:
    """Assert that the spans and the counters agree with the actors' own notes."""
    counts = totals(shop.receiver.latest())
    executes = shop.named("execute gate")
    passed = set(shop.told("passed"))
    assert ids(executes) == sorted(passed & set(ids(shop.named("submit gate"))))
    dispatches = shop.named("dispatch gate")
    back = [span for span in dispatches if span.attributes.get("task.status") == "retry"]
    assert {span.status for span in dispatches} == {"UNSET"}
    assert counts["task.dispatched", "gate"] == len(dispatches) == len(executes) + len(back)
    assert counts["task.retried", "gate"] == len(back)
    assert counts["task.completed", "gate", "success"] == len(executes)
    assert counts["task.duration", "gate", "success"] == len(executes)
    assert finished == (len(executes) == counts["task.submitted", "gate"])


def assert_interrupted(shop: Workers) -> None:
    """Assert that the actor that wants to know of a shutdown was interrupted, and ran again."""
    first, again = sorted(shop.named("execute notified"), key=lambda span: span.start)
    said = [(span.attributes["task.status"], span.status) for span in (first, again)]
    assert said == [("retry", "UNSET"), ("success", "UNSET")]
    assert "error.type" not in first.attributes
    (resubmit,) = (s for s in shop.named("submit notified") if s.parent_id == first.span_id)
    (dispatch,) = (s for s in shop.named("dispatch notified") if s.span_id == again.parent_id)
    assert dispatch.parent_id == resubmit.span_id
    counts = totals(shop.receiver.latest())
    assert counts["task.submitted", "notified"] == 1
    assert counts["task.retried", "notified"] == 1
    assert counts["task.completed", "notified", "success"] == 1


@on_each_broker
def test_gauges_of_two_processes(shop: Workers) -> None:
    few = {"dramatiq_queue_prefetch": "2", "dramatiq_delay_queue_prefetch": "1"}
    worker = shop.start(threads=2, **few, OTEL_METRIC_EXPORT_INTERVAL="200")
    first = {"retries exhausted": {"count": 2}}
    shop.send(
        **first,
        ok={"count": 5, "delay": 600_000},
        gate={"count": 4},
        success={"count": 3, "args": ["x"]},
    )
    # Messages that are held or run are not depth. Each process holds one that is delayed, and on
    # RabbitMQ only itself knows of it.
    delayed = 5 if shop.env["APP_BROKER"].startswith("redis") else 3 + 1
    worker.wait_for(lambda: shop.last(DEPTH) == [{"default": 3}] * 2)
    worker.wait_for(lambda: shop.last("task.queue.delayed") == [{"default": delayed}] * 2)
    worker.wait_for(lambda: shop.last("task.queue.dead") == [{"default": 2}] * 2)
    worker.wait_for(lambda: shop.last(BUSY) == [{"": 2}] * 2)
    assert shop.last(WORKERS) == [{"": 2}] * 2
    (point, *_) = of_metric(shop.receiver.latest(), DEPTH)
    assert (point.kind, point.unit) == ("gauge", "{task}")
    (point, *_) = of_metric(shop.receiver.latest(), WORKERS)
    assert (point.kind, point.monotonic, point.unit) == ("sum", False, "{worker}")
    shop.open_gate()
    worker.wait_for(lambda: shop.last(DEPTH) == [{"default": 0}] * 2)
    worker.wait_for(lambda: shop.last(BUSY) == [{"": 0}] * 2)
    assert "no reading of" not in worker.log()


def test_reading_the_depth_makes_no_queue(
    amqp_url: str, receiver: Receiver, processes: Processes, tmp_path: Path
) -> None:
    shop = Workers(amqp_url, receiver, processes, tmp_path)
    worker = shop.start(processes=1, OTEL_METRIC_EXPORT_INTERVAL="100")
    worker.wait_for(lambda: shop.last("task.queue.dead") == [{"default": 0}])
    with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
        connection.channel().queue_delete("default.XQ")
        seen = len(of_metric(receiver.points(), WORKERS))
        worker.wait_for(lambda: len(of_metric(receiver.points(), WORKERS)) > seen + 5)
        assert shop.last("task.queue.dead") == [{"default": 0}]
        channel = connection.channel()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="404"):
            channel.queue_declare("default.XQ", passive=True)
    assert "no reading of" not in worker.log()
