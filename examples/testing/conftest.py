"""Two ways to run the tasks: in the test itself, and in a worker as in production."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent

os.environ["BROKER_FOLDER"] = tempfile.mkdtemp()

from shop import app  # noqa: E402 - it reads the variable


def pytest_unconfigure():
    shutil.rmtree(os.environ["BROKER_FOLDER"])


@pytest.fixture
def eager():
    """Tasks run where they are submitted, at once."""
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


@pytest.fixture(scope="session")
def worker(queue_collector_env):
    """One worker for all tests, with the command of production."""
    process = subprocess.Popen(
        [BIN / "opentelemetry-instrument", BIN / "celery", "-A", "shop", "worker", "-P", "solo"],
        cwd=HERE,
        env={**os.environ, **queue_collector_env},
    )
    yield
    process.terminate()
    process.wait()
