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
    from collections.abc import Iterable, Iterator

_logger = logging.getLogger("otel_queue_bridge")

_WALKED = 500
"""Objects looked at in search of locks and connections, at most."""
_HOLDING_LIMIT = 0.1
"""Seconds that a fork may wait for all collections and exports that are under way."""

_IMPORTED_LATE = ("netrc", "encodings.idna")
"""What an export over HTTP imports only when it is under way (requests 2.34 `get_netrc_auth`, and
`socket.getaddrinfo`). A child forked meanwhile would wait for the lock of that import for ever."""

_inherited: list[object] = []
"""What a child has replaced: kept, since to free it is work, and connections take locks to close
that another thread of the parent may have held at the fork."""


class Held:
    """The locks of the SDK that this thread holds over one fork, and what its child begins with.

    All is found and made before the fork: to the child, each object that it looks at, and all code
    that it runs, is a page to copy.
    """

    def __init__(self, providers: Iterable[object]) -> None:
        """Before the fork: find the SDK's parts, and wait for what is under way; within bounds.

        A lock that is taken is taken in the child, too: its readers, which the SDK restarts before
        it is our turn, wait until the child has started from nothing.
        """
        if "urllib3" in sys.modules:
            for name in _IMPORTED_LATE:
                import_module(name)
        self._providers = tuple(providers)
        self._consumers: list[Any] = []
        self._exporting: list[Any] = []
        self._connections: list[Any] = []
        self._find()
        self._fresh: list[tuple[Any, str, Any]] = []
        self._moved = ""
        """Why the metrics of this SDK cannot be cleared; empty if they can."""
        self._prepare()
        self._held: list[Any] = []
        self._missed: list[tuple[Any, str, Any]] = []
        try:
            self._hold()
        except BaseException:  # a time limit, say: nobody else would release them
            self.release()
            raise

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

    def _prepare(self) -> None:
        """Make the replacements for what the child must not share with its parent."""
        for connection in self._connections:
            self._fresh += _other_connections(connection)
        if not self._consumers and any(map(_is_sdks, self._providers)):
            self._moved = "no _reader_storages"
        try:
            for consumer in self._consumers:
                self._fresh += _without_ours(consumer)
        except AttributeError as error:
            self._moved = str(error)

    def _hold(self) -> None:
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

    def export_locks(self) -> list[Any]:
        return [exporting._export_lock for exporting in self._exporting]  # noqa: SLF001

    def release(self) -> None:
        """After the fork, in either process: let everybody go on."""
        while self._held:
            self._held.pop().release()

    def start_over(self) -> None:
        """In the child: have it export as if it had just begun."""
        for owner, name, fresh in self._fresh:
            _inherited.append(getattr(owner, name))
            setattr(owner, name, fresh)
        for owner, name, lock in self._missed:
            if getattr(owner, name) is lock:  # whoever holds it is not in this process
                setattr(owner, name, threading.Lock())
        if self._moved:
            _logger.warning("this SDK keeps its metrics elsewhere (%s)", self._moved)
        for _, instruments in all_instruments():
            if instruments.pending:  # else no thread was registering anything
                _free(instruments.meter)
            instruments.start_from_nothing()

    def register(self) -> None:
        """In the child, once its locks are free: have the SDK know all that the parent had made."""
        for _, instruments in all_instruments():
            instruments.register()


def _other_connections(found: Any) -> Iterator[tuple[Any, str, Any]]:
    """Return what gives an HTTP exporter of OpenTelemetry other connections than the parent's.

    It keeps a socket open; parent and child writing on the same one garble both.
    """
    requests = sys.modules.get("requests")
    managers = [found]
    if requests is not None and isinstance(found, requests.Session):
        # The user may have mounted adapters of another kind, which have no such pools.
        adapters = [one for one in found.adapters.values() if hasattr(one, "poolmanager")]
        managers = [one.poolmanager for one in adapters]
        yield from ((one, "proxy_manager", {}) for one in adapters)
    for manager in managers:
        pools: Any = getattr(manager, "pools", None)
        if hasattr(pools, "_maxsize"):  # urllib3 has no public way
            yield manager, "pools", type(pools)(pools._maxsize)  # noqa: SLF001


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


def _without_ours(consumer: Any) -> Iterator[tuple[Any, str, Any]]:
    """Return what takes our instruments out of the SDK's storage; the user's stay as they are."""
    for storage in consumer._reader_storages.values():  # noqa: SLF001
        matches = storage._instrument_view_instrument_matches  # noqa: SLF001
        yield storage, "_lock", threading.RLock()
        others = {
            instrument: found
            for instrument, found in matches.copy().items()
            if instrument.instrumentation_scope.name != SCOPE
        }
        yield storage, "_instrument_view_instrument_matches", others


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
