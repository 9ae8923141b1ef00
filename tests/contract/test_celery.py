"""The contract, on Celery with the prefork pool."""

from collections.abc import Iterator

import pytest

from otel_queue_bridge.testing.contract import AdapterContract
from tests.contract.rig import NOWHERE, Fleet, Library
from tests.servers import RabbitMQ, Valkey

COMMAND = [
    "celery",
    "-A",
    "tests.contract.apps.celery_app",
    "worker",
    "-l",
    "info",
    "-P",
    "prefork",
    "-c",
    "2",
]


@pytest.fixture(scope="class", params=["valkey", "rabbitmq"])
def rig(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    server: Valkey | RabbitMQ = request.getfixturevalue(request.param)
    scheme = server.url.partition("://")[0]
    library = Library(
        system="celery",
        app="celery_app",
        command=COMMAND,
        ready=" ready.",
        broker=server.url,
        nowhere=f"{scheme}://127.0.0.1:{NOWHERE}//",
    )
    with Fleet(library, tmp_path_factory.mktemp("celery")) as fleet:
        yield fleet


class TestCelery(AdapterContract):
    pass
