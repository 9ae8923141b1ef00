"""Workers whose tasks are greenlets, and an SDK that was started before its threads became some."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from otel_queue_bridge.forks.sdk import Held

if TYPE_CHECKING:
    from collections.abc import Iterable

_logger = logging.getLogger("otel_queue_bridge")

_VARIABLE = "OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH=patch_all"
_warned: set[str] = set()


def warn_of_threads(providers: Iterable[object]) -> None:
    """Warn once if gevent or eventlet has patched this process behind the start of the SDK.

    A greenlet that waits for a lock that a thread of the SDK's holds stops all greenlets.
    """
    library = _patched_by()
    if library and library not in _warned and _has_native_locks(providers):
        _warned.add(library)
        how = f": set {_VARIABLE}" if library == "gevent" else ""
        _logger.warning(
            "the SDK was started before %s patched this process: tasks may stall, and the worker "
            "may hang when it is stopped; patch first%s",
            library,
            how,
        )


def _patched_by() -> str:
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return ""


def _has_native_locks(providers: Iterable[object]) -> bool:
    held = Held(providers)
    try:
        return any(type(lock).__module__ == "_thread" for lock in held.export_locks())
    finally:
        held.release()
