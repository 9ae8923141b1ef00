"""What a submit adds to the request that makes it: wall time, with a real broker.

python -m benchmarks.latency [--submits N] [--rounds N]   prints a table
python -m benchmarks.latency --in QUEUE WHO URL           prints the µs of each submit
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from redis import Redis
from rich.console import Console
from rich.table import Table

from otel_queue_bridge.otlp import Receiver
from tests.servers import Processes, Valkey, otel_env

if TYPE_CHECKING:
    from collections.abc import Callable

_QUEUES = ("celery", "dramatiq", "rq")
_WHO = ("nothing", "SDK alone", "ours")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--submits", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in", dest="inside", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(*submitted(*options.inside, options.submits))
        return
    drawn = Table(title="µs of a submit in a web process, over Valkey")
    drawn.add_column("queue")
    for who in _WHO:
        drawn.add_column(f"p50 {who}", justify="right")
    for who in _WHO:
        drawn.add_column(f"p99 {who}", justify="right")
    with tempfile.TemporaryDirectory() as folder, Receiver() as receiver:
        processes = Processes(Path(folder))
        url = Valkey(processes, Path(folder)).url
        try:
            for queue in _QUEUES:
                times: dict[str, list[float]] = {who: [] for who in _WHO}
                for _ in range(options.rounds):
                    for who in _WHO:
                        command = [sys.executable, "-m", "benchmarks.latency"]
                        command += ["--submits", str(options.submits), "--in", queue, who, url]
                        run = subprocess.run(  # noqa: S603 - ourselves
                            command,
                            env=os.environ | otel_env(receiver, "web"),
                            check=True,
                            capture_output=True,
                            text=True,
                        )
                        times[who] += map(float, run.stdout.split())
                cuts = [statistics.quantiles(times[who], n=100) for who in _WHO]
                drawn.add_row(
                    queue, *(f"{cut[49]:.0f}" for cut in cuts), *(f"{cut[98]:.0f}" for cut in cuts)
                )
        finally:
            processes.stop(grace=0)
    Console(width=None if os.isatty(1) else 120).print(drawn)


def submitted(queue: str, who: str, url: str, submits: int) -> list[float]:
    """Return the µs that each submit took, inside a span as in a web handler."""
    if who != "nothing":
        from opentelemetry.instrumentation.auto_instrumentation import initialize

        os.environ["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "*"
        initialize()
    submit = _submit(queue, url)
    if who == "ours":
        import otel_queue_bridge

        otel_queue_bridge.instrument(queue)
    from opentelemetry import trace

    tracer, taken = trace.get_tracer(__name__), []
    for number in range(submits + 100):
        with tracer.start_as_current_span("POST"):
            began = time.perf_counter()
            submit()
            taken.append((time.perf_counter() - began) * 1e6)
        if number % 500 == 0:
            Redis.from_url(url).flushall()
    return taken[100:]


def _submit(queue: str, url: str) -> Callable[[], object]:
    if queue == "celery":
        import celery

        app = celery.Celery("latency", broker=url)
        return lambda: app.send_task("add", (2, 3))
    if queue == "dramatiq":
        import dramatiq
        from dramatiq.brokers.redis import RedisBroker

        add = dramatiq.actor(lambda *_: None, broker=RedisBroker(url=url), actor_name="add")
        return lambda: add.send(2, 3)
    from rq import Queue

    jobs = Queue("latency", connection=Redis.from_url(url))
    return lambda: jobs.enqueue("operator.add", 2, 3)


if __name__ == "__main__":
    main()
