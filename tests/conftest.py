"""Fixtures for all tests; nothing is started before a test asks for it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from xdist.scheduler import LoadScopeScheduling

pytest.register_assert_rewrite("otel_queue_bridge.testing")

from tests.servers import (  # noqa: E402 - it imports the kit
    PostgreSQL,
    Processes,
    RabbitMQ,
    Valkey,
    unignore_signals,
)

if TYPE_CHECKING:
    from otel_queue_bridge.otlp import Receiver


class ByKind(LoadScopeScheduling):
    """Let each kind of worker, and each example, have its own process: it takes its time."""

    def _split_scope(self, nodeid: str) -> str:
        kind = re.match(r"tests/(?:contract/|test_examples).*?\[([^]-]*)", nodeid)
        return super()._split_scope(nodeid) + (kind[1] if kind else "")


def pytest_xdist_make_scheduler(config, log):
    return ByKind(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.fixture(scope="session", autouse=True)
def default_signals() -> None:
    """However the run was started; where tests run, and not in xdist's main process."""
    unignore_signals()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """What lives as long as the whole run."""
    processes = Processes(tmp_path_factory.mktemp("servers"))
    yield processes
    processes.stop()


@pytest.fixture(scope="session")
def valkey(servers: Processes, tmp_path_factory: pytest.TempPathFactory) -> Valkey:
    return Valkey(servers, tmp_path_factory.mktemp("valkey"))


@pytest.fixture
def redis_url(valkey: Valkey) -> str:
    """The URL of an empty Redis."""
    with valkey.client() as client:
        client.flushall()
    return valkey.url


@pytest.fixture(scope="session")
def rabbitmq(servers: Processes, tmp_path_factory: pytest.TempPathFactory) -> RabbitMQ:
    return RabbitMQ(servers, tmp_path_factory.mktemp("rabbitmq"))


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgreSQL]:
    with Processes(tmp_path_factory.mktemp("postgresql")) as processes:
        server = PostgreSQL(processes)
        yield server
    server.remove()


@pytest.fixture
def amqp_url(rabbitmq: RabbitMQ) -> str:
    """The URL of an empty virtual host."""
    return rabbitmq.vhost()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """What a test starts, and what ends with it, at once."""
    processes = Processes(tmp_path)
    yield processes
    processes.stop(grace=0)


@pytest.fixture
def receiver() -> Iterator["Receiver"]:
    from otel_queue_bridge.otlp import Receiver

    with Receiver() as receiver:
        yield receiver
