"""Switch it on: discovery, versions, conflicts, one instrumentor per queue.

The adapters, bundled or a stranger's, are found by the entry-point group
`otel_queue_bridge.adapters`; none is imported before it is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar

from opentelemetry import trace
from opentelemetry.instrumentation.dependencies import (
    DependencyConflictError,
    get_dependency_conflicts,
)
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined] # its file asks mypy to skip it
from opentelemetry.instrumentation.utils import suppress_instrumentation

from otel_queue_bridge import lifecycle
from otel_queue_bridge.config import Config, ConfigError, load
from otel_queue_bridge.operation import Operations
from otel_queue_bridge.patching import Patches

if TYPE_CHECKING:
    from collections.abc import Collection
    from contextlib import AbstractContextManager

    from otel_queue_bridge.adapter import Adapter, Advice

_logger = logging.getLogger("otel_queue_bridge")

_GROUP = "otel_queue_bridge.adapters"


class Bridge(Operations):
    """One queue library, instrumented with one configuration: the adapter's `Recorder`."""

    def __init__(self, adapter: Adapter, config: Config) -> None:
        super().__init__(adapter.system, config, adapter.span_names)
        self._patches = Patches(adapter.system, self)
        for hook in adapter.hooks:
            self._patches.install(hook)

    def patch(self, owner: object, attribute: str, advice: Advice) -> None:
        self._patches.patch(owner, attribute, advice)

    def flush(self) -> None:
        provider = self.config.tracer_provider or trace.get_tracer_provider()
        lifecycle.flush(provider, self.config.flush_timeout)

    def suppressed(self) -> AbstractContextManager[None]:
        return suppress_instrumentation()

    def undo(self) -> None:
        """Restore the library exactly."""
        self._patches.undo()


class QueueInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Instruments one queue library; a subclass names it.

    Options are those of `instrument()`. Under `opentelemetry-instrument` a bad option is
    logged and the queue runs on, uninstrumented; called from code, it is a `ConfigError`.
    """

    queue: ClassVar[str]
    """Name of the library's adapter in the entry-point group."""

    _bridge: Bridge | None = None
    _yielded: tuple[str, ...] = ()

    def instrumentation_dependencies(self) -> Collection[str]:
        return adapter_named(self.queue).instruments

    def instrument(self, **kwargs: Any) -> None:
        # The loader has checked the extra `instruments-any` only: one of the libraries is
        # there. Ours may be another one, so its own versions are checked in any case.
        loaded = kwargs.pop("skip_dep_check", False)
        if loaded:
            kwargs["raise_exception_on_conflict"] = True
        if self.is_instrumented_by_opentelemetry:
            return
        try:
            super().instrument(**kwargs)
        except ConfigError as error:
            if not loaded:
                raise
            _logger.error("%s is not instrumented: %s", self.queue, error)  # noqa: TRY400 - a user's slip, no defect

    def _instrument(self, **kwargs: Any) -> None:
        config = load(kwargs)
        if config.queues is not None and self.queue not in config.queues:
            return
        adapter = adapter_named(self.queue)
        if config.conflicts == "yield" and any(map(_instrumented, adapter.rivals)):
            _logger.warning(
                "%s is left to %s, as conflicts=yield wants it", self.queue, adapter.rivals[0]
            )
            return
        self._bridge = Bridge(adapter, config)
        lifecycle.follow_forks()
        self.settle()

    def _uninstrument(self, **_: Any) -> None:
        if self._bridge is not None:
            self._bridge.undo()
            self._bridge = None

    def settle(self) -> None:
        """Settle with instrumentors that record the same, whichever came first."""
        if self._bridge is None:
            return
        for rival in filter(_instrumented, adapter_named(self.queue).rivals):
            if self._bridge.config.conflicts == "replace":
                _instance(rival).uninstrument()
                _logger.warning(
                    "replaced %s, which records the same tasks; "
                    "conflicts=yield keeps it and leaves %s to it",
                    rival,
                    self.queue,
                )
            else:
                self.uninstrument()
                _logger.warning("%s is left to %s, as conflicts=yield wants it", self.queue, rival)
                return


class CeleryInstrumentor(QueueInstrumentor):
    """Celery."""

    queue = "celery"


_INSTRUMENTORS: dict[str, type[QueueInstrumentor]] = {
    instrumentor.queue: instrumentor for instrumentor in (CeleryInstrumentor,)
}


def instrument(*queues: str, **options: Any) -> None:
    """Trace the named queue libraries, or all that are installed.

    Options are those of the README, each also a variable `OTEL_PYTHON_QUEUE_BRIDGE_<NAME>`.
    A library may be imported before or after, apps made before are included. Calling it
    again, or after `opentelemetry-instrument`, does nothing.

    Raises:
        ConfigError: an option or a queue does not exist, or has a value that is not allowed.
        DependencyConflictError: a library named here is missing or of an untested version.

    """
    config = load(options)
    known = adapters()
    named = queues or config.queues or ()
    for queue in named:
        if queue not in known:
            message = f"there is no queue {queue!r}: known are {', '.join(sorted(known))}"
            raise ConfigError(message)
    if queues:
        options["queues"] = queues
    for queue in named or known:
        conflict = get_dependency_conflicts(adapter_named(queue).instruments)
        if conflict is None:
            _instrumentor(queue).instrument(**options)
        elif named:
            raise DependencyConflictError(conflict)


def uninstrument(*queues: str) -> None:
    """Restore the named queue libraries, or all of them, exactly as they were."""
    for queue in queues or adapters():
        instrumentor = _instrumentor(queue)
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


def adapters() -> tuple[str, ...]:
    """Return the names of all adapters, the bundled ones and others that are installed."""
    return tuple(dict.fromkeys(point.name for point in entry_points(group=_GROUP)))


def adapter_named(queue: str) -> Adapter:
    """Import an adapter; it never imports its library."""
    (point, *_) = entry_points(group=_GROUP, name=queue)
    adapter: Adapter = point.load()
    return adapter


def settle_conflicts() -> None:
    """Settle with rivals that `opentelemetry-instrument` loaded after us."""
    for queue in adapters():
        _instrumentor(queue).settle()


def _instrumentor(queue: str) -> QueueInstrumentor:
    if queue not in _INSTRUMENTORS:  # a stranger's adapter needs no class of its own
        _INSTRUMENTORS[queue] = type(f"{queue}Instrumentor", (QueueInstrumentor,), {"queue": queue})
    return _INSTRUMENTORS[queue]()


def _instrumented(rival: str) -> bool:
    with contextlib.suppress(Exception):
        return bool(_instance(rival).is_instrumented_by_opentelemetry)
    return False


def _instance(rival: str) -> Any:
    """Return a rival that is loaded already; it is never imported by us."""
    module, _, name = rival.partition(":")
    return getattr(sys.modules.get(module), name)()
