from __future__ import annotations

from contextlib import contextmanager

import dramatiq
import dramatiq.rate_limits.backends as limits
import dramatiq.results.backends as results
import pytest
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker

from .common import worker


@contextmanager
def in_use(broker):
    broker.emit_after("process_boot")
    dramatiq.set_broker(broker)
    try:
        yield broker
    finally:
        broker.flush_all()
        broker.close()


@pytest.fixture
def stub_broker():
    with in_use(StubBroker()) as broker:
        yield broker


@pytest.fixture
def redis_broker():
    broker = RedisBroker()
    broker.client.flushall()
    with in_use(broker):
        yield broker


@pytest.fixture
def start_cli():
    pytest.skip("its processes would look for a Redis at the usual port")


@pytest.fixture
def stub_worker(stub_broker):
    with worker(stub_broker, worker_timeout=100, worker_threads=32) as started:
        yield started


@pytest.fixture
def redis_worker(redis_broker):
    with worker(redis_broker, worker_timeout=100, worker_threads=32) as started:
        yield started


@pytest.fixture
def redis_result_backend():
    backend = results.RedisBackend()
    backend.client.flushall()
    return backend


@pytest.fixture(params=["redis", "stub"])
def result_backend(request):
    if request.param == "stub":
        return results.StubBackend()
    return request.getfixturevalue("redis_result_backend")


@pytest.fixture(params=["redis", "stub"])
def rate_limiter_backend(request):
    if request.param == "stub":
        return limits.StubBackend()
    backend = limits.RedisBackend()
    backend.client.flushall()
    return backend
