"""What a process has to do where it is forked and where it ends."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_logger = logging.getLogger("otel_queue_bridge")

_WALKED = 500
"""Objects looked at in search of the exporters' connections, at most."""

_inherited: list[object] = []
"""Connection pools of the parent: kept, since closing takes locks that another of its threads
may have held at the fork."""

exporting: WeakSet[Any] = WeakSet()
"""Providers that were handed to us, beside the global ones."""

_before: list[Callable[[], None]] = []
_in_parent: list[Callable[[], None]] = []
_in_children: list[Callable[[], None]] = []

_IMPORTED_LATE = ("netrc", "encodings.idna")
"""What an export over HTTP imports first when it is under way (requests 2.34 `get_netrc_auth`, and
`socket.getaddrinfo`). A child forked meanwhile would wait for the lock of that import for ever."""

_holding: list[Any] = []
"""What held connections at the last fork."""


def flush(timeout: float, *providers: object) -> None:
    """Export what this process, which is about to end, still holds; within `timeout` seconds.

    In threads of their own: `BatchSpanProcessor.force_flush` ignores its timeout (SDK 1.45).
    """
    deadline = time.monotonic() + timeout
    threads = [
        threading.Thread(
            target=_export, args=(provider,), name="otel_queue_bridge.flush", daemon=True
        )
        for provider in dict.fromkeys(providers)
        if hasattr(provider, "force_flush")
    ]
    if timeout <= 0:
        return
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        _logger.warning(
            "process %d could not export all it held within flush_timeout (%s s)",
            os.getpid(),
            timeout,
        )


def _export(provider: Any) -> None:
    try:
        provider.force_flush()
    except Exception as error:  # noqa: BLE001 - a span processor of the user's
        _logger.warning("%s while exporting what was left", type(error).__name__)


def run_at_forks(
    *,
    before: Iterable[Callable[[], None]] = (),
    in_parent: Iterable[Callable[[], None]] = (),
    in_children: Iterable[Callable[[], None]] = (),
) -> None:
    """From now on, run these at every fork, in this order; each once."""
    if not _in_children and hasattr(os, "register_at_fork"):  # it cannot be taken back
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=partial(_run, _in_parent),
            after_in_child=partial(_run, _in_children),
        )
    for all_, more in ((_before, before), (_in_parent, in_parent), (_in_children, in_children)):
        all_.extend(action for action in more if action not in all_)


def _before_fork() -> None:
    # Here and not in the child, to which each object that is looked at is a page to copy.
    global _holding  # noqa: PLW0603 - of the process, as what it finds
    try:
        for name in _IMPORTED_LATE if "urllib3" in sys.modules else ():
            import_module(name)
        providers = (trace.get_tracer_provider(), metrics.get_meter_provider())
        _holding = _connections(*providers, get_logger_provider(), *exporting)
    except Exception as error:  # noqa: BLE001 - a fork of the host must not fail
        _logger.warning("%s before a fork", type(error).__name__)
    _run(_before)


def _run(actions: Iterable[Callable[[], None]]) -> None:
    for action in actions:
        try:
            action()
        except Exception as error:  # noqa: BLE001, PERF203 - a fork of the host must not fail
            _logger.warning("%s in %s at a fork", type(error).__name__, action.__name__)


def drop_connections() -> None:
    """In a forked child: give OpenTelemetry's HTTP exporters connections of their own.

    They keep a socket open; parent and child writing on the same one garble both.
    """
    requests, urllib3 = sys.modules.get("requests"), sys.modules.get("urllib3")
    if urllib3 is None:
        return
    for found in _holding:
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
