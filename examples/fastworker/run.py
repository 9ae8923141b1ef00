"""Start everything, sign one user up, show the trace and the metrics, and stop everything."""

import asyncio
import random
import socket
import sys
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from aiosmtpd.controller import Controller

sys.path.append(str(Path(__file__).parents[1]))

from running import LIMIT, console, example

FASTWORKER = "0.1.1"  # the subworkers of 0.3.0 cannot start
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


def first_of(count):
    """Return the first of so many free ports in a row."""
    while True:
        first = random.randrange(20_000, 32_000)  # noqa: S311 - below what the system hands out
        with ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probes.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
        return first


def readings(points):
    for name in METRICS:
        for point in points:
            if point.metric == name:
                value = f"{point.value:g}"
                if point.kind == "histogram":
                    value = f"{point.sum:.3f} s in {point.count} run"
                label = point.attributes.get("status") or point.attributes.get("task.priority", "")
                yield f"{name:29}{value:19}{label}".rstrip()


with example(__file__) as run, ExitStack() as running:
    port = first_of(13)  # a control plane takes six, a subworker four
    discovery = f"tcp://127.0.0.1:{port + 6}"
    provider = Controller(SlowProvider(), "127.0.0.1", port + 11, server_hostname="localhost")
    provider.start()
    running.callback(provider.stop)
    run.env |= {
        "FASTWORKER_DISCOVERY_ADDRESS": discovery,
        "FASTWORKER_OTEL_ENABLED": "true",
        # Its handler would keep FastWorker from setting up the log, where we see what is ready.
        "OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION": "false",
        "OTEL_PYTHON_QUEUE_BRIDGE_NAMING": "system",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(run.folder),
        "SMTP_PORT": str(port + 11),
        "TMPDIR": str(run.temporary),
    }
    if version("fastworker") != FASTWORKER:
        run.install(f"fastworker=={FASTWORKER}")
    run.start(
        "control-plane",
        f"opentelemetry-instrument fastworker control-plane --base-address tcp://127.0.0.1:{port}"
        f" --subworker-port {port + 5} --discovery-address {discovery} --task-modules tasks",
        ready="ready to receive tasks",
    )
    run.start(
        "subworker",
        "opentelemetry-instrument fastworker subworker --worker-id sw1"
        f" --base-address tcp://127.0.0.1:{port + 7} --control-plane-address tcp://127.0.0.1:{port}"
        f" --discovery-address {discovery} --task-modules tasks",
        ready="registered with control plane",
    )
    run.env["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "redis"
    run.start(
        "web",
        f"opentelemetry-instrument uvicorn main:app --host 127.0.0.1 --port {port + 12}",
        ready="Uvicorn running on",
    )
    run.request("POST", port + 12, "/signup?user_id=42")
    spans = run.spans(
        *("POST /signup", "fastworker.client.submit", "nng.req_reply", "nng.req_reply"),
        *("fastworker.control_plane.dispatch", "fastworker.task.execute", "smtp.sendmail"),
    )

    def counted(_):
        return {point.metric for point in run.receiver.latest()} >= set(METRICS)

    run.receiver.wait_for(counted, LIMIT)
    # The ASGI instrumentation gives each event a span, and no variable stops that.
    run.show([span for span in spans if "asgi.event.type" not in span.attributes])
    console.print("", *readings(run.receiver.latest()), sep="\n")
