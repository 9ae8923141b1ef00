from __future__ import annotations

from contextlib import contextmanager

import dramatiq
import pika
import pytest

RABBITMQ_CREDENTIALS = pika.PlainCredentials("guest", "guest")
skip_in_ci = pytest.mark.skip(reason="it measures time")
skip_on_pypy = skip_on_windows = pytest.mark.filterwarnings()


@contextmanager
def worker(broker, **options):
    started = dramatiq.Worker(broker, **options)
    started.start()
    try:
        yield started
    finally:
        started.stop()
