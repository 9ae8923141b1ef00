"""Switch it on: discovery, versions, conflicts, one instrumentor per queue.

The adapters, bundled or a stranger's, are found by the entry-point group
`otel_queue_bridge.adapters`; none is imported before it is asked for.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar

from opentelemetry import trace
from opentelemetry.instrumentation.dependencies import (
    DependencyConflictError,
    get_dependency_conflicts,
)
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined] # its file asks mypy to skip it
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import get_meter_provider

from otel_queue_bridge import lifecycle, metrics, relay, semconv, spans
from otel_queue_bridge.config import (
    Config,
    ConfigError,
    FileOptions,
    holds,
    load,
    switched_on,
)
from otel_queue_bridge.operation import Operations
from otel_queue_bridge.patching import Patches
from otel_queue_bridge.relay import Relay

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from opentelemetry.trace import TracerProvider

    from otel_queue_bridge.adapter import Adapter, Advice, BuiltIn, Reading

_logger = logging.getLogger("otel_queue_bridge")

_GROUP = "otel_queue_bridge.adapters"
_REPLACED = (
    "replaced %s, which records the same tasks; conflicts=yield keeps it and leaves %s to it"
)


class Bridge(Operations):
    """One queue library, instrumented with one configuration: the adapter's `Recorder`."""

    def __init__(self, adapter: Adapter, config: Config) -> None:
        super().__init__(adapter.system, config, adapter.span_names)
        self._patches = Patches(adapter.system, self, adapter.interrupts)
        for hook in adapter.hooks:
            self._patches.install(hook)

    def silence(self, functions: Iterable[str]) -> None:
        """Have the library record nothing itself."""
        for function in functions:
            self._patches.replace(function, _record_nothing)

    def patch(self, owner: object, attribute: str, advice: Advice) -> None:
        self._patches.patch(owner, attribute, advice)

    def advised(self, function: Callable[..., Any], advice: Advice) -> Callable[..., Any]:
        return self._patches.advised(advice.__qualname__, function, advice)

    def flush(self, *, metrics: bool = False) -> None:
        providers = self._tracer_providers()
        own = () if spans.all_diverted(*providers) else providers
        meters = (self.config.meter_provider or get_meter_provider(),) if metrics else ()
        lifecycle.flush(self.config.flush_timeout, *own, *meters)

    def watch_workers(self, read: Callable[[], Iterable[Reading]]) -> Callable[[], None]:
        return self.measurements.watch(semconv.WORKERS, read)

    def watch_depth(self, read: Callable[[], Iterable[Reading]]) -> Callable[[], None]:
        if not self.config.queue_depth:
            return lambda: None
        return self.measurements.watch(semconv.DEPTH, read)

    def relay(self, *, spans_apart: bool = False) -> Relay:
        providers = self._tracer_providers()
        spans.remember(providers)
        receivers: dict[str, Callable[..., None]] = {"span": partial(spans.receive, providers)}
        if self.measurements.active():
            receivers["count"] = self.measurements.relayed
        patience = self.config.flush_timeout
        apart = spans_apart and self.config.horse_export == "relay"
        return Relay(receivers, patience, Relay(receivers, patience) if apart else None)

    def relay_spans(self) -> None:
        if self.config.horse_export == "relay" and relay.parent is not None:
            way = relay.parent.beside or relay.parent
            spans.divert(self._tracer_providers(), way.send)

    def tell(self, message: str) -> None:
        if relay.parent is not None:
            relay.parent.send("tell", message)

    def _tracer_providers(self) -> tuple[TracerProvider, ...]:
        """Return the one that we record with, and the one that the user does."""
        own = self.config.tracer_provider
        everybodys = trace.get_tracer_provider()
        return (everybodys,) if own in (None, everybodys) else (own, everybodys)

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
        # (That of 0.53b0 leaves the check to us, and says so by the other argument.)
        loaded = kwargs.pop("skip_dep_check", False) or kwargs.get("raise_exception_on_conflict")
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
        adapter = adapter_named(self.queue)
        on = switched_on(adapter.switch)
        if on is False:
            return
        if config.queues is not None:
            _check(config.queues, config.origin["queues"])
            if self.queue not in config.queues and not on:
                return
        rivals = [rival for rival in adapter.rivals if _instrumented(rival)]
        built_in = adapter.built_in
        if built_in is not None and not holds(built_in.variable, built_in.values):
            built_in = None
        if config.conflicts == "yield" and (rivals or built_in):
            other = rivals[0] if rivals else _shown(built_in)
            _logger.warning("%s is left to %s, as conflicts=yield wants it", self.queue, other)
            return
        for rival in rivals:  # first of all: else its wrappers would be under ours
            _replace(rival, self.queue)
        lifecycle.run_at_forks(
            before=(metrics.hold,),
            in_parent=(metrics.release,),
            in_children=(
                lifecycle.drop_connections,
                metrics.start_from_nothing,
                metrics.release,
                relay.enter_child,
                spans.enter_child,
            ),
        )
        for provider in (config.tracer_provider, config.meter_provider):
            if provider is not None:
                lifecycle.exporting.add(provider)
        _bridges[self.queue] = bridge = Bridge(adapter, config)
        if built_in is not None:
            bridge.silence(built_in.functions)
            _logger.warning(_REPLACED, _shown(built_in), self.queue)

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
    _logger.warning(_REPLACED, rival, queue)


def _shown(built_in: BuiltIn | None) -> str:
    return f"its own telemetry ({built_in.variable})" if built_in else ""


def _record_nothing(*_: object, **__: object) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


class CeleryInstrumentor(QueueInstrumentor):
    """Celery."""

    queue = "celery"


class DramatiqInstrumentor(QueueInstrumentor):
    """Dramatiq."""

    queue = "dramatiq"


class RQInstrumentor(QueueInstrumentor):
    """RQ."""

    queue = "rq"


class FastWorkerInstrumentor(QueueInstrumentor):
    """FastWorker."""

    queue = "fastworker"


_INSTRUMENTORS: dict[str, type[QueueInstrumentor]] = {
    instrumentor.queue: instrumentor
    for instrumentor in (
        CeleryInstrumentor,
        DramatiqInstrumentor,
        FastWorkerInstrumentor,
        RQInstrumentor,
    )
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
    _check(named, "instrument()" if queues else config.origin.get("queues", ""))
    if queues:
        options["queues"] = queues
    for queue in named:
        adapter = adapter_named(queue)
        switched_on(adapter.switch)
        conflict = get_dependency_conflicts(adapter.instruments)
        if conflict is not None:
            raise DependencyConflictError(conflict)
    others = []
    for queue in () if queues else known:
        with _contained(queue):
            if queue not in named and _is_wanted(queue, others_named=bool(named)):
                others.append(queue)
    for queue in named:
        _instrumentor(queue).instrument(**options)
    for queue in others:
        with _contained(queue):
            _instrumentor(queue).instrument(**options)


def _is_wanted(queue: str, *, others_named: bool) -> bool:
    """Tell whether a queue that nobody has named is there, and meant nevertheless."""
    adapter = adapter_named(queue)
    on = switched_on(adapter.switch)
    if others_named and not on:
        return False
    conflict = get_dependency_conflicts(adapter.instruments)
    if conflict is not None and conflict.found is not None:
        _logger.warning("%s is not instrumented: %s", queue, conflict)
    return conflict is None


def _check(queues: Iterable[str], place: str) -> None:
    known = adapters()
    for queue in queues:
        if queue not in known:
            message = f"{place} names {queue!r}: allowed are {', '.join(sorted(known))}"
            raise ConfigError(message)


@contextlib.contextmanager
def _contained(queue: str) -> Iterator[None]:
    """Keep what is wrong with one queue, a stranger's above all, from the others."""
    try:
        yield
    except ConfigError:
        raise
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
