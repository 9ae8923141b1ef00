"""Start everything, sign one user up, show the trace and the metrics, and stop everything."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from http import HTTPStatus
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from aiosmtpd.controller import Controller
from rich.console import Console

from otel_queue_bridge.cli import CommandError
from otel_queue_bridge.cli.demo.processes import Participant, Process, clean_environment
from otel_queue_bridge.cli.demo.story import is_noise
from otel_queue_bridge.cli.tree import trace_tree
from otel_queue_bridge.otlp import Receiver, Span

HERE = Path(__file__).parent
FASTWORKER = "0.1.1"  # the subworkers of 0.3.0 cannot start
LIMIT = 30.0  # seconds to wait for each thing

TRACE = {  # each span with its parent
    ("POST /signup", ""),
    ("fastworker.client.submit", "POST /signup"),
    ("nng.req_reply", "fastworker.client.submit"),
    ("fastworker.control_plane.dispatch", "fastworker.client.submit"),
    ("nng.req_reply", "fastworker.control_plane.dispatch"),
    ("fastworker.task.execute", "fastworker.control_plane.dispatch"),
    ("smtp.sendmail", "fastworker.task.execute"),
}
METRICS = (
    "fastworker.tasks.submitted",
    "fastworker.tasks.dispatched",
    "fastworker.tasks.completed",
    "fastworker.tasks.duration",
    "fastworker.workers.active",
    "fastworker.queue.depth",
)


class SlowProvider:
    """The mail provider that everybody believed to be fast."""

    async def handle_DATA(self, *_: object) -> str:  # noqa: N802 - aiosmtpd's name
        await asyncio.sleep(0.4)
        return "250 OK"


class Ports:
    """Twelve free ports in a row: a control plane takes six, a subworker four."""

    def __init__(self) -> None:
        first = _first_of(12)
        self.control_plane = f"tcp://127.0.0.1:{first}"
        self.registry = str(first + 5)  # where subworkers look for it
        self.discovery = f"tcp://127.0.0.1:{first + 6}"
        self.subworker = f"tcp://127.0.0.1:{first + 7}"
        self.smtp = first + 11


def _first_of(count: int) -> int:
    while True:
        first = random.randrange(20_000, 32_000)  # noqa: S311 - below what the system hands out
        with ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probes.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
        return first


def install_fastworker(folder: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", folder]
    done = subprocess.run(
        [*pip, f"fastworker=={FASTWORKER}"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CommandError(f"pip cannot install FastWorker {FASTWORKER}:\n{done.stderr}")


def participants(ports: Ports) -> list[Participant]:
    control_plane = (
        *("control-plane", "--base-address", ports.control_plane),
        *("--subworker-port", ports.registry, "--discovery-address", ports.discovery),
    )
    subworker = (
        *("subworker", "--worker-id", "sw1", "--base-address", ports.subworker),
        *("--control-plane-address", ports.control_plane, "--discovery-address", ports.discovery),
    )
    tasks = ("--task-modules", "tasks")
    web = ("main:app", "--host", "127.0.0.1", "--port", "0")
    return [
        Participant(
            "control-plane", "fastworker.cli", (*control_plane, *tasks), "ready to receive tasks"
        ),
        Participant(
            "subworker", "fastworker.cli", (*subworker, *tasks), "registered with control plane"
        ),
        Participant("web", "uvicorn", web, r"Uvicorn running on (http://\S+)"),
    ]


def environment(folder: str, ports: Ports, endpoint: str) -> dict[str, str]:
    return clean_environment(
        {
            "FASTWORKER_DISCOVERY_ADDRESS": ports.discovery,
            "FASTWORKER_OTEL_ENABLED": "true",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            # Its handler would keep FastWorker from setting up the log, where we see what is ready.
            "OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION": "false",
            "OTEL_PYTHON_QUEUE_BRIDGE_NAMING": "system",
            "OTEL_TRACES_EXPORTER": "otlp",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": os.pathsep.join([folder, str(HERE)]),
            "SMTP_PORT": str(ports.smtp),
            "TMPDIR": folder,
        }
    )


def sign_up(address: str) -> None:
    # urllib would ask the user's proxy for 127.0.0.1.
    url = urlsplit(address)
    connection = HTTPConnection(url.hostname or "", url.port, timeout=LIMIT)
    connection.request("POST", "/signup?user_id=42")
    response = connection.getresponse()
    if response.status != HTTPStatus.OK:
        raise CommandError(f"the web app answered {response.status}")
    connection.close()


def complete(spans: Sequence[Span], receiver: Receiver) -> bool:
    names = {span.span_id: span.name for span in spans}
    traced = {(span.name, names.get(span.parent_id, "")) for span in spans}
    return traced >= TRACE and {point.metric for point in receiver.latest()} >= set(METRICS)


def readings(receiver: Receiver) -> Iterator[str]:
    for name in METRICS:
        for point in receiver.latest():
            if point.metric == name:
                value = f"{point.value:g}"
                if point.kind == "histogram":
                    value = f"{point.sum:.3f} s in {point.count} run"
                label = point.attributes.get("status") or point.attributes.get("task.priority", "")
                yield f"{name:29}{value:19}{label}".rstrip()


def show(folder: str, console: Console) -> None:
    ports = Ports()
    processes: list[Process] = []
    with ExitStack() as running:
        provider = Controller(SlowProvider(), "127.0.0.1", ports.smtp, server_hostname="localhost")
        provider.start()
        running.callback(provider.stop)
        receiver = running.enter_context(Receiver())
        environ = environment(folder, ports, receiver.endpoint)
        try:
            for participant in participants(ports):
                console.print(f"$ {participant.shown}", soft_wrap=True)
                process = Process(participant, environ, folder)
                processes.append(running.enter_context(process))
                process.wait_until_ready(LIMIT)
            sign_up(process.address)
            receiver.wait_for(lambda spans: complete(spans, receiver), LIMIT)
        except Exception:
            console.print(*(process.tail() for process in processes), sep="\n", markup=False)
            raise
    console.print()
    console.print(trace_tree([span for span in receiver.spans() if not is_noise(span)]))
    console.print("", *readings(receiver), sep="\n")


def main() -> None:
    # Leave through the `with` blocks, which stop the processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A log or a pipe can take long lines.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    try:
        with TemporaryDirectory() as folder:
            if version("fastworker") != FASTWORKER:
                install_fastworker(folder)
            show(folder, console)
    except (CommandError, TimeoutError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
