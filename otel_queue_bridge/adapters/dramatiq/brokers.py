"""The differences between Dramatiq's brokers: where the server is, and how deep the queues are."""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Server = tuple[str, int | None] | None

_servers: weakref.WeakKeyDictionary[Any, Server] = weakref.WeakKeyDictionary()


def server(broker: Any) -> Server:
    if broker not in _servers:
        _servers[broker] = _server(broker)
    return _servers[broker]


def _server(broker: Any) -> Server:
    kind = _kind(broker)
    if kind == "RedisBroker":
        pool = getattr(broker.client, "connection_pool", None)  # a cluster's client has none
        options = getattr(pool, "connection_kwargs", {})
        if "host" in options:  # a Unix socket has a path instead
            return options["host"], options.get("port")
    if kind == "RabbitmqBroker":
        parameters = broker.parameters
        if not isinstance(parameters, list):  # of a list, pika takes whichever answers
            return parameters.host, parameters.port
    return None


def depths(broker: Any, queues: Iterable[str]) -> Iterator[Reading]:
    """Read each queue, its delay queue and its dead letters as three separate queues."""
    read = {"RedisBroker": _redis, "RabbitmqBroker": _rabbitmq, "StubBroker": _stub}.get(
        _kind(broker)
    )
    return iter(()) if read is None else read(broker, queues)


def _kind(broker: Any) -> str:
    known = ("RedisBroker", "RabbitmqBroker", "StubBroker")
    return next((kind.__name__ for kind in type(broker).__mro__ if kind.__name__ in known), "")


def _redis(broker: Any, queues: Iterable[str]) -> Iterator[Reading]:
    names = list(queues)
    # The pool gives this thread a connection that no other thread uses.
    with broker.client.pipeline(transaction=False) as pipeline:
        for name in names:
            pipeline.llen(f"{broker.namespace}:{name}")
            pipeline.llen(f"{broker.namespace}:{name}.DQ")
            pipeline.zcard(f"{broker.namespace}:{name}.XQ")
        found = iter(pipeline.execute())
    for name in names:
        for suffix in ("", ".DQ", ".XQ"):
            yield Reading(next(found), queue=name + suffix)


def _rabbitmq(broker: Any, queues: Iterable[str]) -> Iterator[Reading]:
    pika = sys.modules["pika"]  # imported by Dramatiq, whose own connections belong to its threads
    connection = pika.BlockingConnection(parameters=broker.parameters)
    try:
        for name in queues:
            for suffix in ("", ".DQ", ".XQ"):
                channel = connection.channel()  # the server closes it if the queue does not exist
                try:
                    declared = channel.queue_declare(queue=name + suffix, passive=True)
                except pika.exceptions.ChannelClosedByBroker:
                    continue
                yield Reading(declared.method.message_count, queue=name + suffix)
                channel.close()
    finally:
        connection.close()


def _stub(broker: Any, queues: Iterable[str]) -> Iterator[Reading]:
    for name in queues:
        yield Reading(broker.queues[name].qsize(), queue=name)
        yield Reading(broker.queues[f"{name}.DQ"].qsize(), queue=f"{name}.DQ")
        yield Reading(len(broker.dead_letters_by_queue[name]), queue=f"{name}.XQ")
