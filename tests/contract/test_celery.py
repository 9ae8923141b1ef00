"""The contract, on Celery with the prefork pool."""

from typing import ClassVar

import pytest

from otel_queue_bridge.testing.contract import AdapterContract
from otel_queue_bridge.testing.rig import NOWHERE, Library
from tests.servers import RabbitMQ, Valkey

APP = "tests.contract.apps.celery_app"


@pytest.fixture(scope="class", params=["valkey", "rabbitmq"])
def library(request: pytest.FixtureRequest) -> Library:
    server: Valkey | RabbitMQ = request.getfixturevalue(request.param)
    scheme = server.url.partition("://")[0]
    return Library(
        system="celery",
        app=APP,
        worker=["celery", "-A", APP, "worker", "-l", "info", "-P", "prefork", "-c", "2"],
        ready=" ready.",
        broker=server.url,
        nowhere=f"{scheme}://127.0.0.1:{NOWHERE}//",
        transport=scheme,
        workers=2,
        ahead=2,
        repeats="Valkey" if scheme == "amqp" else "",
        lacks={"oldest": "RabbitMQ shows no message"} if scheme == "amqp" else {},
    )


class TestCelery(AdapterContract):
    lacks: ClassVar = {"dead": "it keeps no message of a task that failed"}
