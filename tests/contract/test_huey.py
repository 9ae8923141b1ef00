"""The contract, on Huey: workers that are threads, and workers that are processes."""

import signal
from typing import ClassVar

import pytest

from otel_queue_bridge.testing.contract import AdapterContract
from otel_queue_bridge.testing.rig import NOWHERE, Library
from tests.servers import Valkey

APP = "tests.contract.apps.huey_app"


@pytest.fixture(scope="class", params=["thread", "process"])
def library(request: pytest.FixtureRequest, valkey: Valkey) -> Library:
    # Each process uninstruments itself, and `Rig.undo` waits for the first of them only.
    workers = 2 if request.param == "thread" else 1
    command = ["huey_consumer", f"{APP}.huey", "--worker-type", request.param]
    return Library(
        system="huey",
        app=APP,
        worker=[*command, "--workers", str(workers)],
        ready="The following commands are available",
        broker=valkey.url,
        nowhere=f"redis://127.0.0.1:{NOWHERE}",
        module="huey.bin.huey_consumer",
        transport="redis",
        workers=workers,
        repeats="threads" if request.param == "process" else "",
        task_name=f"{APP}.{{}}",
        stop_signal=signal.SIGINT,  # SIGTERM interrupts what runs
    )


class TestHuey(AdapterContract):
    lacks: ClassVar = {"dead": "it keeps no task that failed, only its result"}
