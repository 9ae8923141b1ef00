"""The two paths of a Celery task, without a broker: the submit, and the work of a worker."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import celery
import kombu
from celery.app.trace import setup_worker_optimizations
from celery.concurrency.solo import TaskPool
from celery.worker import strategy
from celery.worker.consumer import consumer as consumer_module
from kombu.message import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

app = celery.Celery("bench", broker="memory://", set_as_current=True)
app.conf.task_ignore_result = True

_published: dict[str, Any] = {}


@app.task
def add(x: int, y: int) -> int:
    return x + y


def _publish(_: kombu.Producer, body: Any, **properties: Any) -> None:
    _published.update(properties, body=body)


def submit() -> None:
    add.apply_async((2, 3))


def keep_from_broker() -> None:
    kombu.Producer.publish = _publish


def worker() -> Callable[[Mapping[str, Any]], None]:
    """Return a function that handles a message with these headers, as a solo worker does."""
    hostname = f"bench@{socket.gethostname()}"
    setup_worker_optimizations(app, hostname)
    # Use the name that the worker uses, because that one gets patched.
    add.__trace__ = consumer_module.build_tracer(add.name, add, app.loader, hostname, app=app)
    pool = TaskPool(1, app=app)
    consumer = SimpleNamespace(
        hostname=hostname,
        pool=pool,
        app=app,
        connection_errors=(),
        event_dispatcher=None,
        timer=SimpleNamespace(call_at=None),
        apply_eta_task=None,
        disable_rate_limits=True,
        task_buckets={},
        on_task_request=lambda request: request.execute_using_pool(pool),
        _limit_task=None,
        _limit_post_eta=None,
        controller=SimpleNamespace(state=SimpleNamespace(revoked=())),
    )
    handle = strategy.default(add, app, consumer)
    body, content_type, encoding, _ = _serialized()

    def work(headers: Mapping[str, Any]) -> None:
        message = Message(
            body=body,
            content_type=content_type,
            content_encoding=encoding,
            delivery_info={"exchange": "", "routing_key": "celery"},
            properties={"correlation_id": headers["id"], "reply_to": "reply", "priority": 0},
            headers=dict(headers),
            accept={content_type},
        )
        handle(message, None, _settled, _settled, ())

    return work


def headers() -> dict[str, Any]:
    """Return the headers of the task that was submitted last."""
    return dict(_published["headers"])


def _serialized() -> tuple[bytes, str, str, None]:
    content_type, encoding, body = kombu.serialization.dumps(_published["body"], "json")
    return body, content_type, encoding, None


def _settled(*_: object) -> None:
    """Stand in for acknowledging or rejecting, as there is no broker."""
