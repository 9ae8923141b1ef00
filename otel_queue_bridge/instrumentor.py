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

from otel_queue_bridge import lifecycle, metrics, relay, semconv
from otel_queue_bridge.config import Config, ConfigError, FileOptions, load
from otel_queue_bridge.operation import Operations
from otel_queue_bridge.patching import Patches
from otel_queue_bridge.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from otel_queue_bridge.adapter import Adapter, Advice, Reading

_logger = logging.getLogger("otel_queue_bridge")

_GROUP = "otel_queue_bridge.adapters"


class Bridge(Operations):
    """One queue library, instrumented with one configuration: the adapter's `Recorder`."""

    def __init__(self, adapter: Adapter, config: Config) -> None:
        super().__init__(adapter.system, config, adapter.span_names)
        self._patches = Patches(adapter.system, self, adapter.interrupts)
        for hook in adapter.hooks:
            self._patches.install(hook)

    def patch(self, owner: object, attribute: str, advice: Advice) -> None:
        self._patches.patch(owner, attribute, advice)

    def advised(self, function: Callable[..., Any], advice: Advice) -> Callable[..., Any]:
        return self._patches.advised(advice.__qualname__, function, advice)

    def flush(self) -> None:
        provider = self.config.tracer_provider or trace.get_tracer_provider()
        lifecycle.flush(provider, self.config.flush_timeout)

    def watch_workers(self, read: Callable[[], Iterable[Reading]]) -> Callable[[], None]:
        return self.measurements.watch(semconv.WORKERS, read)

    def watch_depth(self, read: Callable[[], Iterable[Reading]]) -> Callable[[], None]:
        if not self.config.queue_depth:
            return lambda: None
        return self.measurements.watch(semconv.DEPTH, read)

    def relay(self) -> Callable[[], None]:
        instruments = self.measurements.instruments
        if instruments is None:
            return lambda: None
        opened = Relay(instruments.record)
        return lambda: opened.close(self.config.flush_timeout)

    def suppressed(self) -> AbstractContextManager[None]:
        return suppress_instrumentation()

    def undo(self) -> None:
        """Restore the library exactly."""
        self._patches.undo()


_bridges: dict[str, Bridge] = {}
"""What is instrumented now, by queue."""


class QueueInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Instruments one queue library; a subclass names it.

    Options are those of `instrument()`. Under `opentelemetry-instrument` a bad option is
    logged and the queue runs on, uninstrumented; called from code, it is a `ConfigError`.
    """

    queue: ClassVar[str]
    """Name of the library's adapter in the entry-point group."""

    configuration = FileOptions

    def instrumentation_dependencies(self) -> Collection[str]:
        return adapter_named(self.queue).instruments

    @property
    def _is_instrumented_by_opentelemetry(self) -> bool:
        # One bridge per queue, whichever class asked for it: a stranger may bring his own.
        return self.queue in _bridges

    @_is_instrumented_by_opentelemetry.setter
    def _is_instrumented_by_opentelemetry(self, value: bool) -> None:
        """Ignore what the base class notes; the bridges tell."""

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
        if config.queues is not None:
            _check(config.queues)
            if self.queue not in config.queues:
                return
        adapter = adapter_named(self.queue)
        rivals = [rival for rival in adapter.rivals if _instrumented(rival)]
        if rivals and config.conflicts == "yield":
            _logger.warning("%s is left to %s, as conflicts=yield wants it", self.queue, rivals[0])
            return
        for rival in rivals:  # first of all: else its wrappers would be under ours
            _replace(rival, self.queue)
        lifecycle.run_in_children(
            lifecycle.drop_connections, metrics.start_from_nothing, relay.enter_child
        )
        for provider in (config.tracer_provider, config.meter_provider):
            if provider is not None:
                lifecycle.exporting.add(provider)
        _bridges[self.queue] = Bridge(adapter, config)

    def _uninstrument(self, **_: Any) -> None:
        _bridges.pop(self.queue).undo()

    def settle(self) -> None:
        """Settle with an instrumentor that records the same and was loaded after us."""
        bridge = _bridges.get(self.queue)
        for rival in adapter_named(self.queue).rivals if bridge else ():
            if bridge is None or not _instrumented(rival):
                continue
            if bridge.config.conflicts == "replace":
                _replace(rival, self.queue)
            else:
                self.uninstrument()
                _logger.warning("%s is left to %s, as conflicts=yield wants it", self.queue, rival)
                return


def _replace(rival: str, queue: str) -> None:
    _instance(rival).uninstrument()
    _logger.warning(
        "replaced %s, which records the same tasks; conflicts=yield keeps it and leaves %s to it",
        rival,
        queue,
    )


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
    _check(named)
    if queues:
        options["queues"] = queues
    for queue in named:
        conflict = get_dependency_conflicts(adapter_named(queue).instruments)
        if conflict is not None:
            raise DependencyConflictError(conflict)
    for queue in named:
        _instrumentor(queue).instrument(**options)
    for queue in () if named else known:
        with _contained(queue):
            conflict = get_dependency_conflicts(adapter_named(queue).instruments)
            if conflict is None:
                _instrumentor(queue).instrument(**options)
            elif conflict.found is not None:
                _logger.warning("%s is not instrumented: %s", queue, conflict)


def _check(queues: Iterable[str]) -> None:
    known = adapters()
    for queue in queues:
        if queue not in known:
            message = f"there is no queue {queue!r}: known are {', '.join(sorted(known))}"
            raise ConfigError(message)


@contextlib.contextmanager
def _contained(queue: str) -> Iterator[None]:
    """Keep what is wrong with one queue, a stranger's above all, from the others."""
    try:
        yield
    except Exception:
        _logger.exception("%s is not instrumented", queue)


def uninstrument(*queues: str) -> None:
    """Restore the named queue libraries, or all of them, exactly as they were."""
    for queue in queues or adapters():
        instrumentor = _instrumentor(queue)
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()


def instrumented() -> Mapping[str, Config]:
    """Return what is instrumented now, and with which options."""
    return {queue: bridge.config for queue, bridge in _bridges.items()}


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
