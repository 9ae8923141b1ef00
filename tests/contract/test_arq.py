"""The contract, on ARQ."""

from typing import ClassVar

import pytest

from otel_queue_bridge.testing.contract import AdapterContract
from otel_queue_bridge.testing.rig import NOWHERE, Library
from tests.servers import Valkey

APP = "tests.contract.apps.arq_app"


@pytest.fixture(scope="class")
def library(valkey: Valkey) -> Library:
    return Library(
        system="arq",
        app=APP,
        worker=["arq", f"{APP}.WorkerSettings"],
        ready="Starting worker for",
        broker=valkey.url,
        nowhere=f"redis://127.0.0.1:{NOWHERE}",
        transport="redis",
        workers=2,
    )


class TestARQ(AdapterContract):
    lacks: ClassVar = {
        "dead": "it keeps results, and no list of what failed",
        "listed_arguments_and_no_others_are_recorded": (
            "a caller has the function's name alone, and positional arguments no names"
        ),
    }
