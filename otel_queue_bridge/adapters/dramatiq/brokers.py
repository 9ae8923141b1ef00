"""The differences between Dramatiq's brokers: where the server is, and how deep the queues are.

A broker's class may say so itself, by `otel_server` and `otel_queue_depths`: see docs/dramatiq.md.
What a broker generates or connects when it is asked for an attribute is not touched.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Reading, ask_redis

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Server = tuple[str, int | None] | None

_servers: weakref.WeakKeyDictionary[Any, Server] = weakref.WeakKeyDictionary()
_transports: weakref.WeakKeyDictionary[Any, str | None] = weakref.WeakKeyDictionary()


def server(broker: Any) -> Server:
    if broker not in _servers:
        _servers[broker] = None  # what fails is not tried again for each message
        _servers[broker] = _server(broker)
    return _servers[broker]


def _server(broker: Any) -> Server:
    if hasattr(type(broker), "otel_server"):
        found = broker.otel_server
        host, port = (found() if callable(found) else found) or (None, None)
        return None if host is None else (str(host), None if port is None else int(port))
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


def transport(broker: Any) -> str | None:
    if broker not in _transports:
        _transports[broker] = {"RedisBroker": "redis", "RabbitmqBroker": "amqp"}.get(_kind(broker))
    return _transports[broker]


def depths(broker: Any, queues: Iterable[str]) -> Iterator[Reading]:
    """Read each queue, its delay queue and its dead letters as three separate queues."""
    if hasattr(type(broker), "otel_queue_depths"):
        return _own(broker, queues)
    read = {"RedisBroker": _redis, "RabbitmqBroker": _rabbitmq, "StubBroker": _stub}.get(
        _kind(broker)
    )
    return iter(()) if read is None else read(broker, queues)


def _kind(broker: Any) -> str:
    known = ("RedisBroker", "RabbitmqBroker", "StubBroker")
    return next((kind.__name__ for kind in type(broker).__mro__ if kind.__name__ in known), "")


def _own(broker: Any, queues: Iterable[str]) -> Iterator[Reading]:
    for name, depth in broker.otel_queue_depths(list(queues)).items():
        yield Reading(int(depth), queue=str(name))


def _redis(broker: Any, queues: Iterable[str]) -> Iterator[Reading]:
    names, space = list(queues), broker.namespace
    commands = [
        command
        for name in names
        for command in (
            ("LLEN", f"{space}:{name}"),
            ("LLEN", f"{space}:{name}.DQ"),
            ("ZCARD", f"{space}:{name}.XQ"),
        )
    ]
    found = iter(ask_redis(broker.client, commands))
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
        # Only asked for, a key that is missing would be made: it is a `defaultdict`.
        yield Reading(len(broker.dead_letters_by_queue.get(name, ())), queue=f"{name}.XQ")
