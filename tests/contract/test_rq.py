"""The contract, on RQ: a worker that forks work-horses, and one that runs jobs itself."""

from collections.abc import Iterator

import pytest
from redis import Redis

from otel_queue_bridge.testing.contract import AdapterContract
from tests.contract.rig import NOWHERE, Fleet, Library
from tests.servers import Valkey

APP = "rq_app"


class Functions(Fleet):
    """RQ names a task by its function's full path."""

    def task_name(self, task: str) -> str:
        return f"tests.contract.apps.{APP}.{task}"

    def clear(self) -> None:
        # A lock that would keep the next one's scheduler idle for a minute.
        with Redis.from_url(self._library.broker) as client:
            client.delete("rq:scheduler-lock:contract")


@pytest.fixture(scope="class", params=["rq.worker.Worker", "rq.worker.SimpleWorker"])
def rig(
    request: pytest.FixtureRequest, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    command = ["rq", "worker", "contract", "--url", valkey.url, "--with-scheduler"]
    library = Library(
        system="rq",
        app=APP,
        command=[*command, "--worker-class", request.param],
        ready="Listening on contract",
        broker=valkey.url,
        nowhere=f"redis://127.0.0.1:{NOWHERE}",
        module="rq.cli",
    )
    with Functions(library, tmp_path_factory.mktemp("rq")) as fleet:
        yield fleet


class TestRQ(AdapterContract):
    pass
