"""The contract, on RQ: a worker that forks work-horses, and one that runs jobs itself."""

from importlib.metadata import version
from typing import ClassVar

import pytest
from redis import Redis

from otel_queue_bridge.testing.contract import AdapterContract
from otel_queue_bridge.testing.rig import NOWHERE, Library
from tests.servers import Valkey, wake_waiting

OLD = int(version("rq").partition(".")[0]) < 3
APP = "tests.contract.apps.rq_app"


@pytest.fixture(scope="class", params=["rq.worker.Worker", "rq.worker.SimpleWorker"])
def library(request: pytest.FixtureRequest, valkey: Valkey) -> Library:
    def clear() -> None:
        # A lock that would keep the next worker's scheduler idle for a minute, and the jobs that
        # were just ending: a worker that starts 90 seconds later would report them as abandoned.
        with Redis.from_url(valkey.url) as client:
            client.delete("rq:scheduler-lock:contract", "rq:wip:contract")

    command = ["rq", "worker", "contract", "--url", valkey.url, "--with-scheduler"]
    return Library(
        system="rq",
        app=APP,
        worker=[*command, "--worker-class", request.param],
        ready="Listening on contract",
        broker=valkey.url,
        nowhere=f"redis://127.0.0.1:{NOWHERE}",
        module="rq.cli",
        transport="redis",
        task_name=f"{APP}.{{}}",
        clear=clear,
        wake=lambda: wake_waiting(valkey.url),
        repeats="Worker" if "Simple" in request.param else "",
    )


class TestRQ(AdapterContract):
    lacks: ClassVar = {
        "cancel": "RQ takes a cancelled job out of its queue; no worker sees it",
        **({"schedule": "before 3.0 its cron jobs have no names"} if OLD else {}),
    }
