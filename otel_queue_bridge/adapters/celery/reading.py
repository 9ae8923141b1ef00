"""Read the facts of a task from Celery's requests, messages and apps."""

from __future__ import annotations

import re
import weakref
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_queue_bridge.adapter import Arguments, Task

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

    from opentelemetry.util.types import AttributeValue

_DELAY = re.compile(r"^(?:[01]\.){28}")
"""What kombu 5.7 puts before a routing key (`native_delayed_delivery.calculate_routing_key`): the
message waits in a queue for each bit that is set, and then goes to the one that it is for."""

_NAMES = {
    name: f"celery.{name}"
    for name in ("eta", "expires", "reply_to", "shadow", "root_id", "parent_id")
}
_LIMITS = ("celery.time_limit", "celery.soft_time_limit")
_TRANSPORTS = {"pyamqp": "amqp", "amqps": "amqp", "librabbitmq": "amqp", "rediss": "redis"}
"""Other names of the same transport."""

_brokers: weakref.WeakKeyDictionary[Any, _Broker] = weakref.WeakKeyDictionary()


def requested(request: Any) -> Task:
    task = task_of(request.app, request.type, request.id, request.request_dict)
    task.arguments = lambda: Arguments(request.task.run, request.args, request.kwargs)
    return task


def task_of(app: Any, name: str, task_id: str, request: MutableMapping[str, Any]) -> Task:
    delivery = request.get("delivery_info") or {}
    eager = request.get("is_eager")
    return Task(
        name,
        str(app.conf.task_default_queue) if eager else queue(app, delivery),
        id=task_id,
        carrier=None if eager else request,
        # Protocol 1 and other tracers put the headers one level deeper.
        other_carriers=(request.get("headers"),),
        attempt=(request.get("retries") or 0) + 1,
        priority=delivery.get("priority"),
        worker=request.get("hostname"),
        server=None if eager else server(app),
        transport=None if eager else transport(app),
        attributes=None if eager else attributes(request),
    )


def batch_of(tasks: list[Task]) -> Task:
    first = tasks[0]
    return Task(
        first.name,
        first.queue,
        worker=first.worker,
        server=first.server,
        transport=first.transport,
        batch=tasks,
    )


def queue(app: Any, delivery: Mapping[str, Any]) -> str:
    exchange, found = delivery.get("exchange"), str(delivery.get("routing_key") or "")
    routing_key = _DELAY.sub("", found)
    delayed = routing_key != found
    if exchange:
        queues = app.amqp.queues
        for queue in (queues.get(routing_key), *queues.consume_from.values()):
            if (
                queue is not None
                and (delayed or queue.exchange.name == exchange)
                and _binds(queue, routing_key)
            ):
                return str(queue.name)
    return routing_key or str(exchange or "")


def _binds(queue: Any, routing_key: str) -> bool:
    if queue.exchange.type == "topic":
        return _matches(str(queue.routing_key or "").split("."), routing_key.split("."))
    return bool(queue.exchange.type == "fanout" or queue.routing_key == routing_key)


def _matches(pattern: list[str], words: list[str]) -> bool:
    """Match as a topic exchange does: `*` stands for one word, `#` for any number of words."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(_matches(pattern[1:], words[start:]) for start in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and _matches(pattern[1:], words[1:])


def server(app: Any) -> tuple[str, int | None] | None:
    return _broker(app).server


def transport(app: Any) -> str | None:
    return _broker(app).transport


def attributes(facts: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """Return what only Celery has, of a message's headers or of a request."""
    found: dict[str, AttributeValue] = {
        name: value
        for key, name in _NAMES.items()
        if (value := facts.get(key)) and isinstance(value, (str, int, float))
    }
    limits = facts.get("timelimit")
    # Anybody may have sent it; without limits Celery sends (None, None).
    if isinstance(limits, (list, tuple)) and any(limits):
        known = zip(_LIMITS, limits, strict=False)
        found |= {name: limit for name, limit in known if isinstance(limit, (int, float))}
    return found


class _Broker(NamedTuple):
    transport: str | None
    server: tuple[str, int | None] | None


def _broker(app: Any) -> _Broker:
    if app not in _brokers:
        _brokers[app] = _Broker(None, None)
        connection = app.connection_for_write()  # it is never used, so it never connects
        name = str(connection.transport_cls or "amqp")
        # `Connection.info` says the same, but logs a warning if the URL has no host (kombu 5.7).
        default = connection.transport.default_connection_params
        host = connection.hostname or default.get("hostname")
        port = connection.port or default.get("port")
        found = None if name in ("memory", "filesystem") or not host else (str(host), port)
        _brokers[app] = _Broker(_TRANSPORTS.get(name, name), found)
    return _brokers[app]


def epoch(eta: str | None, app: Any) -> float | None:
    if not eta:
        return None
    when = datetime.fromisoformat(eta)
    return (when if when.tzinfo else when.replace(tzinfo=app.timezone)).timestamp()
