"""The wall time of a job in a real RQ worker, which forks for each job, with a real receiver.

python -m benchmarks.rq_jobs MODE URL JOBS   runs one worker (see MODES) and prints its milliseconds
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from redis import Redis
from rq import Queue, Worker

from otel_queue_bridge.otlp import Receiver
from tests.servers import Processes, Valkey, otel_env

_DEFAULTS = {"OTEL_BSP_SCHEDULE_DELAY": "5000", "OTEL_METRIC_EXPORT_INTERVAL": "60000"}
MODES = ("nothing", "SDK alone", "relay", "own")


def measure(jobs: int, rounds: int) -> dict[str, float]:
    """Return the median of each mode; all modes take turns, because a machine's speed drifts."""
    found: dict[str, list[float]] = {mode: [] for mode in MODES}
    with tempfile.TemporaryDirectory() as folder, Receiver() as receiver:
        processes = Processes(Path(folder))
        url = Valkey(processes, Path(folder)).url
        try:
            for _ in range(rounds):
                for mode in MODES:
                    run = subprocess.run(  # noqa: S603 - ourselves
                        [sys.executable, "-m", "benchmarks.rq_jobs", mode, url, str(jobs)],
                        env=os.environ | otel_env(receiver, mode, **_DEFAULTS),
                        check=True,
                        capture_output=True,
                        text=True,
                    )
                    found[mode] += map(float, run.stdout.split())
        finally:
            processes.stop(grace=0)
    return {mode: statistics.median(times) for mode, times in found.items()}


def work(mode: str, url: str, jobs: int) -> list[float]:
    """Run a worker over that many jobs; return the milliseconds that each took."""
    if mode != "nothing":
        from opentelemetry.instrumentation.auto_instrumentation import initialize

        os.environ["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "*"
        initialize()
    queue = Queue("bench", connection=Redis.from_url(url))
    for _ in range(jobs):
        queue.enqueue("time.time")
    if mode in ("relay", "own"):
        import otel_queue_bridge

        otel_queue_bridge.instrument("rq", child_export=mode)
    times = []

    class Timed(Worker):
        def dequeue_job_and_maintain_ttl(self, *arguments: object, **options: object) -> object:
            times.append(time.perf_counter())
            return super().dequeue_job_and_maintain_ttl(*arguments, **options)

    Timed([queue], connection=queue.connection).work(burst=True, logging_level="ERROR")
    return [1000 * (after - before) for before, after in pairwise(times)][2:]


if __name__ == "__main__":
    print(*work(sys.argv[1], sys.argv[2], int(sys.argv[3])))
