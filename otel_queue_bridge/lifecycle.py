"""What a process has to do where it is forked and where it ends."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import Any

from opentelemetry import metrics, trace

_logger = logging.getLogger("otel_queue_bridge")

_WALKED = 500
"""Objects looked at in search of the exporters' connections, at most."""

_inherited: list[object] = []
"""Connection pools of the parent: kept, since closing takes locks that another of its threads
may have held at the fork."""

_hooked = False


def flush(provider: object, timeout: float) -> None:
    """Export the finished spans of this process, which is about to end, within `timeout` seconds.

    In a thread of its own: `BatchSpanProcessor.force_flush` ignores its timeout (SDK 1.45).
    """
    force_flush = getattr(provider, "force_flush", None)
    if force_flush is None or timeout <= 0:
        return
    thread = threading.Thread(target=force_flush, name="otel_queue_bridge.flush", daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        _logger.warning(
            "spans of process %d were not exported within flush_timeout (%s s)",
            os.getpid(),
            timeout,
        )


def follow_forks() -> None:
    """From now on, give every forked child exporters with connections of its own.

    OpenTelemetry's HTTP exporters keep a socket open; parent and child writing on the same one
    garble both.
    """
    global _hooked  # noqa: PLW0603 - register_at_fork cannot be taken back, so once per process
    if not _hooked and hasattr(os, "register_at_fork"):
        _hooked = True
        os.register_at_fork(after_in_child=_drop_connections)


def _drop_connections() -> None:
    requests, urllib3 = sys.modules.get("requests"), sys.modules.get("urllib3")
    if urllib3 is None:
        return
    try:
        for found in _connections(trace.get_tracer_provider(), metrics.get_meter_provider()):
            if requests is not None and isinstance(found, requests.Session):
                for adapter in found.adapters.values():
                    _inherited.append(adapter.poolmanager)
                    adapter.init_poolmanager(
                        adapter._pool_connections,  # noqa: SLF001 - requests 2.x has no other way
                        adapter._pool_maxsize,  # noqa: SLF001
                        block=adapter._pool_block,  # noqa: SLF001
                    )
            elif isinstance(found, urllib3.PoolManager):
                _inherited.append(found.pools)
                found.pools = type(found.pools)(found.pools._maxsize)  # noqa: SLF001
    except Exception as error:  # noqa: BLE001 - a fork of the host must not fail
        _logger.warning(
            "%s while parting the exporters' connections after a fork", type(error).__name__
        )


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
        module = type(part).__module__.partition(".")[0]
        if module in ("requests", "urllib3"):
            found.append(part)
        elif module == "opentelemetry":
            slots = (getattr(part, name, None) for name in getattr(type(part), "__slots__", ()))
            waiting.extend(vars(part).values() if hasattr(part, "__dict__") else slots)
        elif isinstance(part, (tuple, list, set, frozenset, dict)):
            waiting.extend(part)
    return found
