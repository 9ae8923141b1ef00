"""Web servers that fork: what their workers submit is exported, and counted once."""

import signal
import urllib.request

import pytest

from otel_queue_bridge.otlp import Receiver
from tests.brokers.shop import ROOT
from tests.servers import Processes, free_port, otel_env, wait_until

APP = "tests.brokers.web_app"
REQUESTS = 6
RARELY = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
INSTRUMENT = ("opentelemetry-instrument",)
POST_FORK = ("--config", f"python:{APP}")


@pytest.mark.parametrize(
    ("command", "arguments", "setup"),
    [
        pytest.param((), (), "import", id="in each worker"),
        pytest.param((), ("--preload",), "import", id="preloaded"),
        pytest.param((), POST_FORK, "post_fork", id="after the fork"),
        pytest.param((), (*POST_FORK, "--preload"), "post_fork", id="preloaded, after the fork"),
        pytest.param(INSTRUMENT, (), "", id="by the command"),
        pytest.param(INSTRUMENT, ("--preload",), "", id="by the command, preloaded"),
        pytest.param((), ("--max-requests", "2"), "import", id="recycled"),
    ],
)
def test_gunicorn(
    redis_url: str,
    receiver: Receiver,
    processes: Processes,
    command: tuple[str, ...],
    arguments: tuple[str, ...],
    setup: str,
) -> None:
    port = free_port()
    server = processes.start(
        "web",
        [*command, "gunicorn", "-w", "2", "-b", f"127.0.0.1:{port}", *arguments, f"{APP}:wsgi"],
        env=otel_env(receiver, "web")
        | {"APP_BROKER": redis_url, "APP_SETUP": setup, "PYTHONPATH": str(ROOT), **RARELY},
        ready="Listening at",
        cwd=ROOT,
    )
    assert submitted(port)
    assert server.stop(signal.SIGTERM) == 0
    assert_all_arrived(receiver)


@pytest.mark.parametrize(
    ("command", "setup"),
    [((), "import"), (INSTRUMENT, "")],
    ids=["in each worker", "by the command"],
)
def test_uvicorn(
    redis_url: str,
    receiver: Receiver,
    processes: Processes,
    command: tuple[str, ...],
    setup: str,
) -> None:
    """Its workers are spawned."""
    port = free_port()
    server = processes.start(
        "web",
        [*command, "uvicorn", "--workers", "2", "--port", str(port), f"{APP}:asgi"],
        env=otel_env(receiver, "web")
        | {"APP_BROKER": redis_url, "APP_SETUP": setup, "PYTHONPATH": str(ROOT), **RARELY},
        cwd=ROOT,
    )
    assert submitted(port)
    assert server.stop(signal.SIGTERM) == 0
    assert_all_arrived(receiver)


def assert_all_arrived(receiver: Receiver) -> None:
    assert len([span for span in receiver.spans() if span.name == "submit app.task"]) == REQUESTS
    counted = [point.value for point in receiver.latest() if point.metric == "task.submitted"]
    assert sum(counted) == REQUESTS


def submitted(port: int) -> set[bytes]:
    """Have the server submit; return the processes that have."""

    def ask() -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}") as answer:
            return bytes(answer.read())

    def answers() -> bytes:
        try:
            return ask()
        except OSError:  # not yet
            return b""

    first = wait_until(answers)
    return {first, *(ask() for _ in range(REQUESTS - 1))}
