"""The contract, on Dramatiq with worker processes of its own."""

from typing import ClassVar

import pytest

from otel_queue_bridge.testing.contract import AdapterContract
from otel_queue_bridge.testing.rig import NOWHERE, Library
from tests.servers import RabbitMQ, Valkey

APP = "tests.contract.apps.dramatiq_app"


@pytest.fixture(scope="class", params=["valkey", "rabbitmq"])
def library(request: pytest.FixtureRequest) -> Library:
    server: Valkey | RabbitMQ = request.getfixturevalue(request.param)
    scheme = server.url.partition("://")[0]
    return Library(
        system="dramatiq",
        app=APP,
        worker=["dramatiq", APP, "--processes", "1", "--threads", "2"],
        ready="Worker process is ready for action.",
        broker=server.url.removesuffix("//"),  # pika reads the slashes as an empty name
        nowhere=f"{scheme}://127.0.0.1:{NOWHERE}",
        transport=scheme,
        workers=2,
        ahead=2,
        repeats="Valkey" if scheme == "amqp" else "",
        lacks={"oldest": "RabbitMQ shows no message"} if scheme == "amqp" else {},
    )


class TestDramatiq(AdapterContract):
    lacks: ClassVar = {"schedule": "it has no schedules"}
