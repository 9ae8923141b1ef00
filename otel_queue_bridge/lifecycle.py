"""What a process has to do where it is forked and where it ends."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger("otel_queue_bridge")

_WALKED = 500
"""Objects looked at in search of the exporters' connections, at most."""

_inherited: list[object] = []
"""Connection pools of the parent: kept, since closing takes locks that another of its threads
may have held at the fork."""

exporting: WeakSet[Any] = WeakSet()
"""Providers that were handed to us, beside the global ones."""

_in_children: list[Callable[[], None]] = []


def flush(provider: object, timeout: float) -> None:
    """Export the finished spans of this process, which is about to end, within `timeout` seconds.

    In a thread of its own: `BatchSpanProcessor.force_flush` ignores its timeout (SDK 1.45).
    """
    force_flush = getattr(provider, "force_flush", None)
    if force_flush is None or timeout <= 0:
        return

    def export() -> None:
        try:
            force_flush()
        except Exception as error:  # noqa: BLE001 - a span processor of the user's
            _logger.warning("%s while exporting the last spans", type(error).__name__)

    thread = threading.Thread(target=export, name="otel_queue_bridge.flush", daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        _logger.warning(
            "spans of process %d were not exported within flush_timeout (%s s)",
            os.getpid(),
            timeout,
        )


def run_in_children(*actions: Callable[[], None]) -> None:
    """From now on, run these in every forked child, in this order; each once."""
    if not _in_children and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)  # cannot be taken back
    _in_children.extend(action for action in actions if action not in _in_children)


def _after_fork() -> None:
    for action in _in_children:
        try:
            action()
        except Exception as error:  # noqa: BLE001, PERF203 - a fork of the host must not fail
            _logger.warning("%s in %s after a fork", type(error).__name__, action.__name__)


def drop_connections() -> None:
    """In a forked child: give OpenTelemetry's HTTP exporters connections of their own.

    They keep a socket open; parent and child writing on the same one garble both.
    """
    requests, urllib3 = sys.modules.get("requests"), sys.modules.get("urllib3")
    if urllib3 is None:
        return
    known = (
        trace.get_tracer_provider(),
        metrics.get_meter_provider(),
        get_logger_provider(),
        *exporting,
    )
    for found in _connections(*known):
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


def _connections(*providers: object) -> list[Any]:
    """Return what holds connections among the parts of OpenTelemetry's own objects."""
    found: list[Any] = []
    seen: set[int] = set()
    waiting: list[object] = list(providers)
    while waiting and len(seen) < _WALKED:
        part = waiting.pop(0)
        if id(part) in seen:
            continue
        seen.add(id(part))
        modules = {base.__module__.partition(".")[0] for base in type(part).__mro__}
        if modules & {"requests", "urllib3"}:
            found.append(part)
        elif "opentelemetry" in modules:
            slots = (getattr(part, name, None) for name in getattr(type(part), "__slots__", ()))
            waiting.extend(vars(part).values() if hasattr(part, "__dict__") else slots)
        elif isinstance(part, (tuple, list, set, frozenset, dict)):
            waiting.extend(part)
    return found
