"""What the notebook needs beside it: a broker, a view and a worker, which end with the notebook."""

import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from otel_queue_bridge.cli.demo.processes import Participant, Process, clean_environment
from otel_queue_bridge.cli.demo.queues import broker

LIMIT = 90.0  # seconds to wait for each

VIEW = Participant(
    "view",
    "otel_queue_bridge",
    ("view", "--port", "0", "--grpc-port", "0"),
    r"Open (http://\S+)",
    instrumented=False,
)
WORKER = Participant(
    "worker", "celery", ("-A", "shop", "worker", "-l", "info", "-c", "1"), r" ready\."
)


class Servers(ExitStack):
    """All of them; `view` is the address of the view."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = self.enter_context(TemporaryDirectory())
        os.environ["BROKER_URL"] = self._start(broker()).address
        self.view = self._start(VIEW).address
        self._start(WORKER)

    def _start(self, participant: Participant) -> Process:
        own = {
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_EXPORTER_OTLP_ENDPOINT": getattr(self, "view", ""),
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_LOGS_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis,fastapi",
            "OTEL_TRACES_EXPORTER": "otlp",
            "PYTHONPATH": str(Path(__file__).parent),
            "TMPDIR": self._folder,
        }
        process = Process(participant, clean_environment(own), self._folder)
        self.enter_context(process)
        process.wait_until_ready(LIMIT)
        return process
