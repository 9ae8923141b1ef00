"""What OpenTelemetry's SDK needs of us at a fork: free locks, other sockets, metrics from zero.

It restarts its threads in every child, and forgets three things (SDK 1.45). A lock that another
thread held stays locked in the child for ever; an export over gRPC that was under way leaves a
child that never exports; and what the parent has counted is exported again, as the child's.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from enum import Enum
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace

from otel_queue_bridge.instruments import SCOPE, all_instruments

if TYPE_CHECKING:
    from collections.abc import Iterable

_logger = logging.getLogger("otel_queue_bridge")

_WALKED = 500
"""Objects looked at in search of locks and connections, at most."""
_HOLDING_LIMIT = 0.1
"""Seconds that a fork may wait for all collections and exports that are under way."""

_IMPORTED_LATE = ("netrc", "encodings.idna")
"""What an export over HTTP imports only when it is under way (requests 2.34 `get_netrc_auth`, and
`socket.getaddrinfo`). A child forked meanwhile would wait for the lock of that import for ever."""

_inherited: list[object] = []
"""Connection pools of the parent: kept, since closing takes locks that another of its threads
may have held at the fork."""


class Held:
    """The SDK's parts that matter to one fork, and those of their locks that this thread holds."""

    def __init__(self, providers: Iterable[object]) -> None:
        """Before the fork: find them, and wait for what is under way; within bounds.

        A lock that is taken is taken in the child, too: its readers, which the SDK restarts before
        it is our turn, wait until the child has started from nothing.
        """
        # Here and not in the child, to which each object that is looked at is a page to copy.
        if "urllib3" in sys.modules:
            for name in _IMPORTED_LATE:
                import_module(name)
        self._providers = tuple(providers)
        self._consumers: list[Any] = []
        self._exporting: list[Any] = []
        self._connections: list[Any] = []
        self._find()
        self._held: list[Any] = []
        self._missed: list[tuple[Any, str, Any]] = []
        deadline = time.monotonic() + _HOLDING_LIMIT
        for owner, name in (
            *((consumer, "_lock") for consumer in self._consumers),
            *((exporting, "_export_lock") for exporting in self._exporting),
        ):
            lock = getattr(owner, name)
            if lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
                self._held.append(lock)
            else:
                self._missed.append((owner, name, lock))

    def _find(self) -> None:
        seen: set[int] = set()
        waiting: deque[object] = deque(self._providers)
        while waiting and len(seen) < _WALKED:
            part = waiting.popleft()
            kind = _kind_of(type(part))  # type: ignore[arg-type] # it is hashable
            if kind is _Kind.OTHER or id(part) in seen:
                continue
            seen.add(id(part))
            if kind is _Kind.CONNECTION:
                self._connections.append(part)
            elif kind is _Kind.CONTAINER:
                waiting.extend(part)  # type: ignore[arg-type]
            else:
                slots = (getattr(part, name, None) for name in getattr(type(part), "__slots__", ()))
                attributes = vars(part) if hasattr(part, "__dict__") else {}
                # Batch processors of spans and logs, and periodic readers of metrics.
                if hasattr(attributes.get("_export_lock"), "acquire"):
                    self._exporting.append(part)
                if "_reader_storages" in attributes and "_lock" in attributes:
                    self._consumers.append(part)
                    waiting.extend(attributes["_reader_storages"])  # and not all that is counted
                else:
                    waiting.extend(attributes.values() or slots)

    def export_locks(self) -> list[Any]:
        return [exporting._export_lock for exporting in self._exporting]  # noqa: SLF001

    def release(self) -> None:
        """After the fork, in either process: let everybody go on."""
        while self._held:
            self._held.pop().release()

    def start_over(self) -> None:
        """In the child: have it export as if it had just begun."""
        self._drop_connections()
        for owner, name, lock in self._missed:
            if getattr(owner, name) is lock:  # whoever holds it is not in this process
                setattr(owner, name, threading.Lock())
        if not self._consumers and any(map(_is_sdks, self._providers)):
            _logger.warning("this SDK keeps its metrics elsewhere (no %s)", "_reader_storages")
        try:
            for consumer in self._consumers:
                _forget_ours(consumer)
        except AttributeError as error:
            _logger.warning("this SDK keeps its metrics elsewhere (%s)", error)
        for _, instruments in all_instruments():
            _free(instruments.meter)
            instruments.start_from_nothing()

    def register(self) -> None:
        """In the child, once its locks are free: have the SDK know all that the parent had made."""
        for _, instruments in all_instruments():
            instruments.register()

    def _drop_connections(self) -> None:
        """Give OpenTelemetry's HTTP exporters other connections than the parent's.

        They keep a socket open; parent and child writing on the same one garble both.
        """
        requests, urllib3 = sys.modules.get("requests"), sys.modules.get("urllib3")
        if urllib3 is None:
            return
        for found in self._connections:
            if requests is not None and isinstance(found, requests.Session):
                for adapter in found.adapters.values():
                    _inherited.extend((adapter.poolmanager, adapter.proxy_manager))
                    adapter.proxy_manager = {}
                    adapter.init_poolmanager(
                        adapter._pool_connections,  # noqa: SLF001 - requests 2.x has no other way
                        adapter._pool_maxsize,  # noqa: SLF001
                        block=adapter._pool_block,  # noqa: SLF001
                    )
            elif isinstance(found, urllib3.PoolManager):
                _inherited.append(found.pools)
                found.pools = type(found.pools)(found.pools._maxsize)  # noqa: SLF001


class _Kind(Enum):
    """What an object is to the search."""

    CONNECTION = 1
    PART = 2
    CONTAINER = 3
    OTHER = 4


@lru_cache(maxsize=1000)
def _kind_of(kind: type) -> _Kind:
    if issubclass(kind, (tuple, list, set, frozenset, dict)):
        return _Kind.CONTAINER
    # As many as the user likes, and they lead to nothing that their provider does not lead to.
    made = issubclass(kind, (trace.Tracer, metrics.Meter, metrics.Instrument))
    if made or kind.__name__ == "InstrumentationScope":
        return _Kind.OTHER
    modules = {base.__module__.partition(".")[0] for base in kind.__mro__}
    if modules & {"requests", "urllib3"}:
        return _Kind.CONNECTION
    return _Kind.PART if "opentelemetry" in modules else _Kind.OTHER


def _is_sdks(provider: object) -> bool:
    return type(provider).__module__.startswith("opentelemetry.sdk.metrics")


def _forget_ours(consumer: Any) -> None:
    """Take our instruments out of what the SDK has stored; the user's are not ours to reset."""
    for storage in consumer._reader_storages.values():  # noqa: SLF001
        storage._lock = threading.RLock()  # noqa: SLF001
        matches = storage._instrument_view_instrument_matches  # noqa: SLF001
        for instrument in list(matches):
            if instrument.instrumentation_scope.name == SCOPE:
                del matches[instrument]


def _free(meter: Any) -> None:
    """Free our meter of an instrument that a thread of the parent's was just registering."""
    registered = getattr(meter, "_instrument_id_instrument", None)
    if registered is None:
        return
    meter._instrument_registration_lock = threading.Lock()  # noqa: SLF001
    meter._instrument_ids_lock = threading.Lock()  # noqa: SLF001
    # The last step, for which it may have been waiting: only then is it observed.
    consumer = getattr(meter, "_measurement_consumer", None)
    observed = {id(one) for one in getattr(consumer, "_async_instruments", ())}
    for name, instrument in list(registered.items()):
        if hasattr(instrument, "callback") and id(instrument) not in observed:
            del registered[name]
    for half in [name for name in meter._instrument_ids if name not in registered]:  # noqa: SLF001
        del meter._instrument_ids[half]  # noqa: SLF001
