"""The fixtures `queue_spans` and `queue_collector`, and what a failing test shows of them.

Every run of pytest imports this where we are installed: so it imports nothing but pytest.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from otel_queue_bridge.testing import QueueCollector, QueueSpans
    from otel_queue_bridge.testing.collector import SharedReceiver

_SHOWN: pytest.StashKey[tuple[str, QueueSpans]] = pytest.StashKey()
"""The fixture that a test uses, by name; `queue_collector` has all that `queue_spans` has."""


@pytest.fixture
def queue_spans(request: pytest.FixtureRequest) -> Iterator[QueueSpans]:
    """What task queues do in the test's process: submits, and tasks that run there.

    See docs/testing.md; `otel_queue_bridge.testing.QueueSpans` has the methods.
    """
    with _extra("queue_spans"):
        from otel_queue_bridge.testing.spans import recording

    with recording() as spans:
        request.node.stash[_SHOWN] = "queue_spans", spans
        yield spans


@pytest.fixture
def queue_collector(
    request: pytest.FixtureRequest, queue_spans: QueueSpans, _queue_receiver: SharedReceiver
) -> QueueCollector:
    """What task queues do in the test's process and in workers started with `env`.

    See docs/testing.md; `otel_queue_bridge.testing.QueueCollector` has the methods.
    """
    from otel_queue_bridge.testing.collector import QueueCollector

    collector = QueueCollector(queue_spans, _queue_receiver)
    request.node.stash[_SHOWN] = "queue_collector", collector
    return collector


@pytest.fixture(scope="session")
def queue_collector_env(_queue_receiver: SharedReceiver) -> dict[str, str]:
    """`queue_collector.env`, for a worker that outlives one test."""
    from otel_queue_bridge.testing.collector import environment

    return environment(_queue_receiver)


@pytest.fixture(scope="session")
def _queue_receiver() -> Iterator[SharedReceiver]:
    with _extra("queue_collector"):
        from otel_queue_bridge.testing.collector import SharedReceiver

    with SharedReceiver() as receiver:
        yield receiver


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if _SHOWN in item.stash:
        name, spans = item.stash[_SHOWN]
        if report.failed:
            report.sections.append((name, spans.tree()))
        if report.when == "teardown":
            del item.stash[_SHOWN]
    return report


@contextmanager
def _extra(fixture: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        pytest.fail(
            f"{fixture} needs {error.name}: pip install 'otel-queue-bridge[testing]'",
            pytrace=False,
        )
