"""Start everything, send requests of which some fail, show traces and figures, stop everything."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from rich.console import Console

from otel_queue_bridge.cli import CommandError
from otel_queue_bridge.cli.demo.processes import Participant, Process, clean_environment
from otel_queue_bridge.cli.demo.queues import broker
from otel_queue_bridge.cli.demo.story import is_noise
from otel_queue_bridge.cli.tree import trace_tree
from otel_queue_bridge.otlp import Receiver, Span
from otel_queue_bridge.view import Queues

HERE = Path(__file__).parent
LIMIT = 90.0  # seconds to wait for each thing
REQUESTS = 10
FAIL = (4, 8)
ROWS = 2_000_000  # a slow one, so that tasks queue up
SPANS = 6  # of each trace

WORKER = Participant(
    "worker",
    "celery",
    ("-A", "main.celery_app", "worker", "--loglevel=info", "--concurrency=1"),
    r" ready\.",
)
WEB = Participant(
    "web",
    "uvicorn",
    ("main:app", "--host", "127.0.0.1", "--port", "0"),
    r"Uvicorn running on (http://\S+)",
)


def environment(folder: str, endpoint: str) -> dict[str, str]:
    return clean_environment(
        {
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_METRIC_EXPORT_INTERVAL": "250",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis",  # the broker's commands
            "OTEL_TRACES_EXPORTER": "otlp",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(HERE),
            "TMPDIR": folder,
        }
    )


def send(address: str) -> None:
    # urllib would ask the user's proxy for 127.0.0.1.
    url = urlsplit(address)
    with closing(HTTPConnection(url.hostname or "", url.port, timeout=LIMIT)) as connection:
        for number in range(REQUESTS):
            connection.request("GET", f"/process?rows={0 if number in FAIL else ROWS}")
            response = connection.getresponse()
            response.read()
            if response.status != HTTPStatus.OK:
                raise CommandError(f"the web app answered {response.status}")


def traces(spans: Sequence[Span]) -> list[list[Span]]:
    """Return the complete ones in the order of their requests."""
    found: dict[str, list[Span]] = {}
    for span in sorted(spans, key=lambda span: span.start):
        if not is_noise(span):
            found.setdefault(span.trace_id, []).append(span)
    return [trace for trace in found.values() if len(trace) == SPANS]


def figures(receiver: Receiver) -> dict[str, float]:
    """Read the three of the article out of the metrics that have arrived; empty until all have."""
    queues = Queues()
    for point in receiver.latest():
        queues.add_point(point)
    for row in queues.table():
        if row["completed"] == REQUESTS and row["run_p95_ms"] is not None and row["depth"] == 0:
            return row
    return {}


def shown(receiver: Receiver) -> Iterator[str]:
    row = figures(receiver)
    depths = [point.value for point in receiver.points() if point.metric == "task.queue.depth"]
    yield f"p95 of the duration  {row['run_p95_ms']:6.1f} ms  of {REQUESTS} runs"
    yield f"error rate           {row['failed_percent']:6g} %   {row['failed']:g} tasks failed"
    yield f"queue depth          {row['depth']:6g}     it was {max(depths):g} at most"


def show(folder: str, console: Console) -> None:
    processes: list[Process] = []
    with ExitStack() as running:
        receiver = running.enter_context(Receiver())
        environ = environment(folder, receiver.endpoint)

        def start(participant: Participant) -> Process:
            participant = participant.expanded(environ)
            console.print(f"$ {participant.shown}", soft_wrap=True)
            process = Process(participant, environ, folder)
            processes.append(running.enter_context(process))
            return process

        try:
            valkey = start(broker())
            valkey.wait_until_ready(LIMIT)
            environ["BROKER_URL"] = valkey.address
            worker, web = start(WORKER), start(WEB)
            worker.wait_until_ready(LIMIT)
            web.wait_until_ready(LIMIT)
            send(web.address)
            receiver.wait_for(
                lambda spans: len(traces(spans)) == REQUESTS and bool(figures(receiver)), LIMIT
            )
        except Exception:
            console.print(*(process.tail() for process in processes), sep="\n", markup=False)
            raise
    found = traces(receiver.spans())
    for trace in (found[1], found[FAIL[0]]):  # the first one also connects to the broker
        console.print()
        console.print(trace_tree(trace))
    console.print("", *shown(receiver), sep="\n")


def main() -> None:
    # Leave through the `with` blocks, which stop the processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A log or a pipe can take long lines.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 110)
    try:
        with TemporaryDirectory() as folder:
            show(folder, console)
    except (CommandError, TimeoutError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
