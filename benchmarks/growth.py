"""Whether anything grows with the number of tasks: time per task, memory, a collection's time.

python -m benchmarks.growth [--tasks N]   submits N tasks for each row, which has its own process
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import multiprocessing
import os
import resource
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import celery
import kombu
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from rich.console import Console
from rich.table import Table

import otel_queue_bridge
from benchmarks.cells import NoExporter
from benchmarks.paths import QUEUES

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.queues import SimpleQueue

_PAGE = resource.getpagesize()
_PARTS = 20
"""Parts of all tasks: the first warms up; the second and the last are compared."""


class Grown(NamedTuple):
    """How one process changed from the beginning to the end."""

    early: float
    late: float
    """CPU µs per task, at the beginning and at the end."""
    memory: float
    """MB added in between."""
    collection: float
    """CPU seconds that one collection of the metrics takes at the end."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--tasks", type=int, default=1_000_000)
    tasks = parser.parse_args().tasks
    drawn = Table(title=f"{tasks:,} submits")
    for name in ("how", "µs, early", "µs, late", "MB more", "collection, ms"):
        drawn.add_column(name, justify="left" if name == "how" else "right")
    for how, submits in _ways(tasks).items():
        grown = _in_a_process(submits, tasks)
        drawn.add_row(
            how,
            f"{grown.early:.0f}",
            f"{grown.late:.0f}",
            f"{grown.memory:.1f}",
            f"{1000 * grown.collection:.1f}",
        )
    Console(width=None if os.isatty(1) else 120).print(drawn)


def _ways(tasks: int) -> dict[str, Callable[[], Callable[[int], None]]]:
    ways: dict[str, Callable[[], Callable[[int], None]]] = {
        "1 name, 1 queue": lambda: _celery(1, 1),
        "200 names, 1 queue": lambda: _celery(200, 1),
        "200 names, 1000 queues": lambda: _celery(200, 1000),
        "64 threads": _threads,
    }
    if "fastworker" in QUEUES:
        at_once = min(10_000, tasks)
        ways[f"{at_once} at once, asyncio"] = lambda: _at_once(at_once)
    return ways


def _in_a_process(way: Callable[[], Callable[[int], None]], tasks: int) -> Grown:
    fork = multiprocessing.get_context("fork")
    results: SimpleQueue[Grown] = fork.SimpleQueue()
    process = fork.Process(target=lambda: results.put(_measure(way, tasks)))
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f"it failed with {process.exitcode}")
    return results.get()


def _measure(way: Callable[[], Callable[[int], None]], tasks: int) -> Grown:
    reader = InMemoryMetricReader()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(NoExporter()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([reader]))
    submit = way()
    part = max(1, tasks // _PARTS)
    submit(part)
    provider.force_flush()
    before = _resident()
    taken = []
    for _ in range(_PARTS - 1):
        began = time.process_time()
        submit(part)
        taken.append((time.process_time() - began) / part * 1e6)
    provider.force_flush()
    gc.collect()
    memory = (_resident() - before) / 1e6
    began = time.process_time()
    reader.get_metrics_data()
    return Grown(taken[0], taken[-1], memory, time.process_time() - began)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _celery(names: int, queues: int) -> Callable[[int], None]:
    app = celery.Celery("growth", broker="memory://", set_as_current=True)
    kombu.Producer.publish = lambda *_, **__: None
    otel_queue_bridge.instrument("celery")
    number = 0

    def submit(tasks: int) -> None:
        nonlocal number
        for _ in range(tasks):
            number += 1
            chosen = f"queue.{number // names % queues}"  # every name with every queue
            app.send_task(f"task.{number % names}", queue=chosen)

    return submit


def _threads() -> Callable[[int], None]:
    submit_some = _celery(50, 10)

    def submit(tasks: int) -> None:
        share = max(1, tasks // 64)
        threads = [threading.Thread(target=submit_some, args=(share,)) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return submit


def _at_once(most: int) -> Callable[[int], None]:
    from benchmarks.paths.fastworker import Paths

    otel_queue_bridge.instrument("fastworker")
    paths = Paths()

    async def together(tasks: int) -> None:
        await asyncio.gather(*(paths.client.delay("add", 2, 3) for _ in range(tasks)))
        # The client has started a task for each, which sends it.
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))
        paths.client.task_results.clear()

    def submit(tasks: int) -> None:
        for _ in range(max(1, tasks // most)):
            paths.loop.run_until_complete(together(min(most, tasks)))

    return submit


if __name__ == "__main__":
    main()
