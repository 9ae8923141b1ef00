"""The CPU time of real workers: Celery (prefork), Dramatiq and RQ, with a real OTLP receiver.

python -m benchmarks.workers [--quick] [--rounds N] [--tasks N] [--queues celery,dramatiq,rq]

What a task costs is the time of all processes of a worker from the first task to the last export,
divided by the tasks; the minimum of all rounds, in which the modes take turns.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import worker_apps
from benchmarks.arguments import add_queues
from benchmarks.worker_apps import CONTRIB, COUNTER, MODES, NOTHING, SPANS
from otel_queue_bridge.otlp import Receiver
from tests.servers import Processes, Valkey, otel_env

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from redis import Redis

    from tests.servers import Process

ROOT = Path(__file__).parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")
_WARM_UP = 50
_DELAY = 1000
"""Milliseconds after which spans are exported that fill no batch."""
_SDK = {"OTEL_BSP_SCHEDULE_DELAY": str(_DELAY), "OTEL_METRIC_EXPORT_INTERVAL": "60000"}
_SPAN = "one more span"


class Queue(NamedTuple):
    """How to start a worker of one queue, and how many tasks tell enough."""

    command: tuple[str, ...]
    share: float = 1.0
    """Of the tasks: a queue that forks for each job is slow."""


def _module(queue: str) -> str:
    return f"{worker_apps.__name__}.{queue}_app"


QUEUES = {
    "celery": Queue(("celery", "-A", _module("celery"), "worker", "-c", "2")),
    "dramatiq": Queue(("dramatiq", _module("dramatiq"), "-p", "1", "-t", "2")),
    "rq": Queue(("rq", "worker", "-c", _module("rq"), "bench"), share=0.1),
}


class Cpu(NamedTuple):
    """CPU seconds of a worker's main process, and of all that it has started."""

    main: float
    children: float


class Cost(NamedTuple):
    """What one task costs: CPU in microseconds, and the spans that its worker sends."""

    main: float
    children: float
    spans: float

    @property
    def all(self) -> float:
        return self.main + self.children


def measure(
    queues: Iterable[str], tasks: int, rounds: int
) -> tuple[dict[str, dict[str, Cost]], float]:
    """Return the cost of a task by queue and mode, and the microseconds of one more span."""
    found: dict[str, dict[str, list[Cost]]] = {queue: defaultdict(list) for queue in queues}
    spans = []
    with (
        tempfile.TemporaryDirectory() as name,
        Receiver() as receiver,
        Processes(Path(name)) as processes,
    ):
        bench = _Bench(receiver, processes, Valkey(processes, Path(name)))
        for _ in range(rounds):
            spans.append(bench.span(tasks))
            for queue, costs in found.items():
                for mode in MODES:
                    if mode != CONTRIB or queue == "celery":
                        number = max(1, int(tasks * QUEUES[queue].share))
                        costs[mode].append(bench.run(queue, mode, number))
    least = {
        queue: {mode: min(costs, key=lambda cost: cost.all) for mode, costs in modes.items()}
        for queue, modes in found.items()
    }
    return least, min(spans)


class _Bench:
    """What all measured workers share."""

    def __init__(self, receiver: Receiver, processes: Processes, valkey: Valkey) -> None:
        self._receiver = receiver
        self._processes = processes
        self._valkey = valkey

    def run(self, queue: str, mode: str, tasks: int) -> Cost:
        env = {
            **otel_env(self._receiver, "worker", **_SDK),
            "PYTHONPATH": str(ROOT),
            "RQ_REDIS_URL": self._valkey.url,
            worker_apps.URL: self._valkey.url,
            worker_apps.MODE: mode,
        }
        with self._valkey.client() as client:
            client.flushall()
            worker = self._processes.start("worker", QUEUES[queue].command, env=env)
            self._submit(queue, _WARM_UP, env)
            self._settle(worker, client, mode, _WARM_UP, _WARM_UP)
            worker.signal_all(signal.SIGSTOP)  # else it would wait for tasks now and then
            self._submit(queue, tasks, env)
            self._receiver.clear()
            before = _cpu(worker)
            worker.signal_all(signal.SIGCONT)
            self._settle(worker, client, mode, _WARM_UP + tasks, tasks)
            after = _cpu(worker)
            sent = self._sent()
        worker.stop()
        main, children = (1e6 * (b - a) / tasks for a, b in zip(before, after, strict=True))
        return Cost(main, children, sent / tasks)

    def span(self, number: int) -> float:
        """Measure what it takes to start, end, encode and send a span."""
        env = otel_env(self._receiver, "span", **_SDK) | {"PYTHONPATH": str(ROOT)}
        command = (sys.executable, "-m", __spec__.name, "--spans", str(number))
        process = self._processes.start("span", command, env=env)
        process.wait()
        return float(process.log())

    def _submit(self, queue: str, tasks: int, env: Mapping[str, str]) -> None:
        script = f"from {_module(queue)} import submit\nfor _ in range({tasks}): submit()"
        command = (sys.executable, "-c", script)
        own = {**env, "OTEL_SERVICE_NAME": "caller"}
        self._processes.start("caller", command, env=own).wait()

    def _settle(
        self, worker: Process, client: Redis, mode: str, tasks: int, received_tasks: int
    ) -> None:
        """Wait until that many tasks are done, and the spans of the last ones have arrived."""
        worker.wait_for(lambda: int(client.get(COUNTER) or 0) >= tasks)  # type: ignore[arg-type]
        worker.wait_for(lambda: self._sent() >= SPANS[mode] * received_tasks)
        time.sleep(_DELAY / 1000)  # also where nothing is sent, for an idle worker costs something

    def _sent(self) -> int:
        return sum(span.service == "worker" for span in self._receiver.spans())


def _cpu(worker: Process) -> Cpu:
    main, children = 0.0, 0.0
    for pid in worker.members():
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        own_user, own_system, user, system = map(int, stat.rpartition(")")[2].split()[11:15])
        if pid == worker.pid:
            main += own_user + own_system
        else:
            children += own_user + own_system
        children += user + system
    return Cpu(main / _TICKS, children / _TICKS)


def one_more_span(number: int) -> float:
    """Return the CPU microseconds of a span like our own, from its start to the last byte sent."""
    worker_apps.start_sdk()
    from opentelemetry import trace

    tracer = trace.get_tracer(__name__)
    attributes = {
        "messaging.system": "celery",
        "messaging.operation.name": "dispatch",
        "messaging.operation.type": "receive",
        "messaging.destination.name": "celery",
        "messaging.message.id": "12345678-1234-1234-1234-123456789012",
        "task.name": "benchmarks.worker_apps.celery_app.increment",
        "task.attempt": 1,
        "server.address": "127.0.0.1",
        "server.port": 6379,
    }
    provider = trace.get_tracer_provider()
    for repetitions in (_WARM_UP, number):
        began = time.process_time()
        for at in range(repetitions):
            tracer.start_span("dispatch increment", attributes=attributes).end()
            if at % 256 == 0:  # the SDK drops what comes faster than it exports
                provider.force_flush()  # type: ignore[attr-defined] # the SDK's
        provider.force_flush()  # type: ignore[attr-defined] # likewise
        spent = time.process_time() - began
    return 1e6 * spent / number


def table(measured: Mapping[str, Mapping[str, Cost]]) -> Table:
    drawn = Table(title="CPU µs of a task in a real worker")
    drawn.add_column("queue")
    drawn.add_column("mode")
    for name in ("all", "main process", "children", "over nothing", "spans"):
        drawn.add_column(name, justify="right")
    for queue, costs in measured.items():
        for mode, cost in costs.items():
            added = cost.all - costs[NOTHING].all
            amounts = (cost.all, cost.main, cost.children, added)
            drawn.add_row(
                queue,
                mode,
                *(f"{amount:,.0f}" for amount in amounts),
                f"{cost.spans:.2f}",
            )
        drawn.add_section()
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only check that everything runs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=2000, help="per round; of RQ, a tenth of it")
    add_queues(parser, QUEUES)
    parser.add_argument("--spans", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.spans:
        print(one_more_span(options.spans))
        return
    rounds, tasks = (1, 20) if options.quick else (options.rounds, options.tasks)
    measured, span = measure(options.queues, tasks, rounds)
    # A pipe has no width that `rich` could use.
    console = Console(width=None if os.isatty(1) else 120)
    console.print(table(measured))
    console.print(f"{_SPAN}: {span:,.0f} µs")


if __name__ == "__main__":
    main()
