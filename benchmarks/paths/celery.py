"""Celery: a message that its strategy receives and a solo pool runs."""

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

from benchmarks.paths import Facts

if TYPE_CHECKING:
    from collections.abc import Callable

app = celery.Celery("bench", broker="memory://", set_as_current=True)
app.conf.task_ignore_result = True


@app.task
def add(x: int, y: int) -> int:
    return x + y


_OWN = {"celery.reply_to": "reply", "celery.root_id": "id", "celery.transport": "memory"}


class Paths:
    facts = Facts(
        task=add.name,
        destination="celery",
        submitted=_OWN,
        worked={**_OWN, "task.priority": 0, "task.worker": "bench@host"},
    )

    def __init__(self) -> None:
        self._published: dict[str, Any] = {}
        kombu.Producer.publish = self._publish

    def _publish(self, body: Any, **properties: Any) -> None:
        self._published.update(properties, body=body)

    def submit(self) -> None:
        add.apply_async((2, 3))

    def worker(self) -> Callable[[], None]:
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
        content_type, encoding, body = kombu.serialization.dumps(self._published["body"], "json")
        headers = self._published["headers"]

        def work() -> None:
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


def _settled(*_: object) -> None:
    """Stand in for acknowledging or rejecting, as there is no broker."""
