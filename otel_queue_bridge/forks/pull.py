"""A pull exporter in a forked worker: the thread that serves it has stayed in the parent.

The SDK starts its push readers again in a child, and no server (exporter-prometheus 0.66). What the
child counts is there, but nobody can ask for it, and the parent answers without it.
"""

from __future__ import annotations

import threading

UNSERVED = (
    "no Prometheus server can see this worker's metrics: it was forked, and the server is its "
    "parent's; export them by OTLP, or serve each process on a port of its own (docs/prometheus.md)"
)


def is_unserved(provider: object) -> bool:
    """Tell whether this process has metrics to be pulled, and no server."""
    consumer = getattr(provider, "_measurement_consumer", None)
    readers = tuple(getattr(consumer, "_reader_storages", ()))
    if not any(_is_a(reader, "PrometheusMetricReader") for reader in readers):
        return False
    threads = threading.enumerate()
    return not any(_is_a(_owner(getattr(one, "_target", None)), "BaseServer") for one in threads)


def _owner(function: object) -> object:
    return getattr(function, "__self__", None)


def _is_a(found: object, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(found).__mro__)
