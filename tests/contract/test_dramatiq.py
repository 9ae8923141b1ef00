"""The contract, on Dramatiq with worker processes of its own."""

from collections.abc import Iterator

import pytest

from otel_queue_bridge.testing.contract import AdapterContract
from tests.contract.rig import NOWHERE, Fleet, Library
from tests.servers import RabbitMQ, Valkey

COMMAND = ["dramatiq", "tests.contract.apps.dramatiq_app", "--processes", "1", "--threads", "2"]


@pytest.fixture(scope="class", params=["valkey", "rabbitmq"])
def rig(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    server: Valkey | RabbitMQ = request.getfixturevalue(request.param)
    scheme = server.url.partition("://")[0]
    library = Library(
        system="dramatiq",
        app="dramatiq_app",
        command=COMMAND,
        ready="Worker process is ready for action.",
        broker=server.url.removesuffix("//"),  # pika reads the slashes as an empty name
        nowhere=f"{scheme}://127.0.0.1:{NOWHERE}",
    )
    with Fleet(library, tmp_path_factory.mktemp("dramatiq")) as fleet:
        yield fleet


class TestDramatiq(AdapterContract):
    pass
