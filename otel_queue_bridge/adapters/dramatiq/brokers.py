"""The differences between Dramatiq's brokers: what they are, and where the server is.

A broker's class may say so itself, by `otel_server`: see docs/dramatiq.md. What a broker
generates or connects when it is asked for an attribute is not touched.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    kind = kind_of(broker)
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
        known = {"RedisBroker": "redis", "RabbitmqBroker": "amqp"}
        _transports[broker] = known.get(kind_of(broker))
    return _transports[broker]


def kind_of(broker: Any) -> str:
    known = ("RedisBroker", "RabbitmqBroker", "StubBroker")
    return next((kind.__name__ for kind in type(broker).__mro__ if kind.__name__ in known), "")
