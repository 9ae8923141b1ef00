"""Switch it on: discovery, versions, conflicts, one instrumentor per queue.

The adapters, bundled or a stranger's, are found by the entry-point group
`otel_queue_bridge.adapters`; none is imported before it is asked for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, ClassVar

import wrapt
from opentelemetry.instrumentation.dependencies import DependencyConflict, DependencyConflictError
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined] # its file asks mypy to skip it

from otel_queue_bridge import versions
from otel_queue_bridge.bridge import Bridge
from otel_queue_bridge.config import (
    VARIABLE,
    ConfigError,
    FileOptions,
    holds,
    load,
    switched_on,
    unknown_queue,
    unknown_variables,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from importlib.metadata import EntryPoint

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from typing_extensions import Unpack

    from otel_queue_bridge.adapter import Adapter, BuiltIn
    from otel_queue_bridge.config import Config, Options

_logger = logging.getLogger("otel_queue_bridge")

_GROUP = "otel_queue_bridge.adapters"
_found: dict[str, EntryPoint] = {}
"""Where each adapter is. To search all that is installed takes as long as the rest of a start."""
_REPLACED = (
    "replaced %s, which records the same tasks; conflicts=yield keeps it and leaves %s to it"
)
_LEFT = "%s is left to %s, as conflicts=yield wants it"


_installed: dict[tuple[str, ...] | None, tuple[str, ...]] = {}
"""What `recording_with` has found, by the option `queues`: tests ask for it one after the other."""

_bridges: dict[str, Bridge] = {}
"""What is instrumented now, by queue."""

_lock = threading.RLock()
"""Held by whoever switches anything on or off."""

_warned: set[str] = set()
"""What has been said: of misspelt variables, bad options and queues of untested versions."""


def _start_over() -> None:
    """In a forked child: another thread may have held the lock at the fork."""
    global _lock  # noqa: PLW0603 - of the process
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)


class QueueInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Instruments one queue library; a subclass names it.

    Options are those of `instrument()`. Under `opentelemetry-instrument` a bad option is
    logged and the queue runs on, uninstrumented; called from code, it is a `ConfigError`.
    """

    queue: ClassVar[str]
    """Name of the library's adapter in the entry-point group."""

    configuration = FileOptions

    def instrumentation_dependencies(self) -> Collection[str]:
        adapter = adapter_named(self.queue)
        return versions.required(adapter) or adapter.tested

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
        with _lock:
            try:
                if self.is_instrumented_by_opentelemetry:
                    self._keep(kwargs)
                else:
                    super().instrument(**kwargs)
            except ConfigError as error:
                if not loaded:
                    raise
                _report(self.queue, error)

    def uninstrument(self, **kwargs: Any) -> None:
        with _lock:
            super().uninstrument(**kwargs)

    def _check_dependency_conflicts(self) -> DependencyConflict | None:
        """Let an untested version pass: `_instrument` knows whether the user wants it."""
        conflict = versions.conflict(adapter_named(self.queue))
        return None if isinstance(conflict, versions.Untested) else conflict

    def _keep(self, kwargs: dict[str, Any]) -> None:
        """Leave it as it is, and say so where other options are asked for."""
        kwargs.pop("raise_exception_on_conflict", None)
        config, kept = load(kwargs), _bridges[self.queue].config
        ignored = [
            name
            for name, value in vars(config).items()
            if name in kwargs and name != "queues" and value != getattr(kept, name)
        ]
        if ignored:
            _logger.warning(
                "%s is instrumented already: %s ignored; uninstrument() it first",
                self.queue,
                ", ".join(f"{name}={getattr(config, name)!r}" for name in ignored),
            )

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
        built_in = _built_in(adapter)
        if config.conflicts == "yield" and (rivals or built_in):
            other = rivals[0] if rivals else _shown(built_in)
            _logger.warning(_LEFT, self.queue, other)
            return
        if not config.untested_versions:
            untested = versions.conflict(adapter)
            if isinstance(untested, versions.Untested):
                _refuse(adapter, untested)
                return
        self.set_up(config)

    def set_up(self, config: Config) -> None:
        """Instrument it with these very options, whatever the environment says now."""
        adapter = adapter_named(self.queue)
        untested = versions.conflict(adapter) if config.untested_versions else None
        gaps = None
        if isinstance(untested, versions.Untested):
            gaps = versions.Gaps(adapter, untested)
        for rival in filter(_instrumented, adapter.rivals):
            _replace(rival, self.queue)  # first of all: else its wrappers would be under ours
        _warn_of_unknown_variables()
        _bridges[self.queue] = bridge = Bridge(adapter, config, gaps)
        built_in = _built_in(adapter)
        if built_in is not None:
            bridge.silence(built_in.functions)
            _logger.warning(_REPLACED, _shown(built_in), self.queue)

    def _uninstrument(self, **_: Any) -> None:
        _bridges.pop(self.queue).undo()

    def resolve_conflicts(self) -> None:
        """Replace an instrumentor that records the same and was loaded after us, or yield to it."""
        with _lock:
            bridge = _bridges.get(self.queue)
            for rival in adapter_named(self.queue).rivals if bridge else ():
                if bridge is None or not _instrumented(rival):
                    continue
                if bridge.config.conflicts == "replace":
                    _replace(rival, self.queue)
                else:
                    self.uninstrument()
                    _logger.warning(_LEFT, self.queue, rival)
                    return


def _refuse(adapter: Adapter, untested: versions.Untested) -> None:
    """Say that the library stays as it is: once, and only where it is imported."""
    queue = adapter.system

    def say(_: object) -> None:
        if queue not in _bridges and queue not in _warned:
            _warned.add(queue)
            _logger.warning("%s is not instrumented: %s", queue, untested)

    for module in versions.modules(adapter):
        wrapt.register_post_import_hook(say, module)


def _replace(rival: str, queue: str) -> None:
    _instance(rival).uninstrument()
    _logger.warning(_REPLACED, rival, queue)


def _built_in(adapter: Adapter) -> BuiltIn | None:
    """Return the library's own telemetry, if its variable switches it on."""
    built_in = adapter.built_in
    if built_in is None or not holds(built_in.variable, built_in.values):
        return None
    return built_in


def _shown(built_in: BuiltIn | None) -> str:
    return f"its own telemetry ({built_in.variable})" if built_in else ""


def _report(queue: str, error: ConfigError) -> None:
    """Say once what is wrong: a bad option concerns every queue alike."""
    what = str(error)
    if what not in _warned:
        _warned.add(what)
        who = "no queue is" if VARIABLE in what else f"{queue} is not"
        _logger.error("%s instrumented: %s", who, what)


def _warn_of_unknown_variables() -> None:
    for variable, what in unknown_variables().items():
        if variable not in _warned:
            _warned.add(variable)
            _logger.warning("%s", what)


class CeleryInstrumentor(QueueInstrumentor):
    """Celery."""

    queue = "celery"


class DjangoInstrumentor(QueueInstrumentor):
    """Django Tasks."""

    queue = "django"


class DramatiqInstrumentor(QueueInstrumentor):
    """Dramatiq."""

    queue = "dramatiq"


class RQInstrumentor(QueueInstrumentor):
    """RQ."""

    queue = "rq"


class ARQInstrumentor(QueueInstrumentor):
    """ARQ."""

    queue = "arq"


class FastWorkerInstrumentor(QueueInstrumentor):
    """FastWorker."""

    queue = "fastworker"


class HueyInstrumentor(QueueInstrumentor):
    """Huey."""

    queue = "huey"


_INSTRUMENTORS: dict[str, type[QueueInstrumentor]] = {
    instrumentor.queue: instrumentor
    for instrumentor in (
        ARQInstrumentor,
        CeleryInstrumentor,
        DjangoInstrumentor,
        DramatiqInstrumentor,
        FastWorkerInstrumentor,
        HueyInstrumentor,
        RQInstrumentor,
    )
}


def instrument(*names: str, **options: Unpack[Options]) -> None:
    """Trace the named queue libraries, or all that are installed.

    Options are those of docs/options.md, each also a variable `OTEL_PYTHON_QUEUE_BRIDGE_<NAME>`.
    A library may be imported before or after; apps made before are included. What is
    instrumented already, also by `opentelemetry-instrument`, keeps its options.

    Raises:
        ConfigError: an option or a queue does not exist, or has a value that is not allowed.
        DependencyConflictError: a library named here is missing or of an untested version.

    """
    with _lock:
        _instrument(names, dict(options))


def _instrument(queues: tuple[str, ...], options: dict[str, Any]) -> None:
    config = load(options)
    known = adapters()
    named = queues or config.queues or ()
    _check(named, "instrument()" if queues else config.origin.get("queues", ""))
    if queues:
        options["queues"] = queues
    for queue in named:
        adapter = adapter_named(queue)
        switched_on(adapter.switch)
        conflict = versions.conflict(adapter)
        allowed = config.untested_versions and isinstance(conflict, versions.Untested)
        if conflict is not None and not allowed:
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
    conflict = versions.conflict(adapter)
    return conflict is None or isinstance(conflict, versions.Untested)


def _check(queues: Collection[str], place: str) -> None:
    known = adapters() if queues else ()
    for queue in queues:
        if queue not in known:
            raise ConfigError(unknown_queue(queue, known, place))


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
    """Restore the named queue libraries, or all of them, exactly as they were.

    Raises:
        ConfigError: a queue that is named does not exist.

    """
    _check(queues, "uninstrument()")
    with _lock:
        for queue in queues or tuple(_bridges):
            instrumentor = _instrumentor(queue)
            if instrumentor.is_instrumented_by_opentelemetry:
                instrumentor.uninstrument()


@contextlib.contextmanager
def recording_with(
    tracer_provider: TracerProvider, meter_provider: MeterProvider
) -> Iterator[Mapping[str, Config]]:
    """Record with these providers inside the `with`, and leave everything as it was.

    What is instrumented already keeps its other options; if nothing is, all that is installed is
    instrumented. The value is what was instrumented before.
    """
    before = instrumented()
    try:
        with _lock:
            uninstrument()
            wanted = load()
            found = _installed.get(wanted.queues)
            if not before and found is None:
                instrument(tracer_provider=tracer_provider, meter_provider=meter_provider)
                _installed[wanted.queues] = tuple(_bridges)
            for queue in before or found or ():
                config = dataclasses.replace(
                    before.get(queue, wanted),
                    tracer_provider=tracer_provider,
                    meter_provider=meter_provider,
                )
                _instrumentor(queue).set_up(config)
        yield before
    finally:
        with _lock, contextlib.ExitStack() as restored:
            uninstrument()
            for queue, config in before.items():  # each of them, also if another one fails
                restored.callback(_instrumentor(queue).set_up, config)


def instrumented() -> Mapping[str, Config]:
    """Return what is instrumented now, and with which options."""
    return {queue: bridge.config for queue, bridge in tuple(_bridges.items())}


def adapters() -> tuple[str, ...]:
    """Return the names of all adapters, the bundled ones and others that are installed."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=_GROUP):
        found.setdefault(point.name, point)
    _found.update(found)
    return tuple(found)


def adapter_named(queue: str) -> Adapter:
    """Import an adapter; it never imports its library."""
    if queue not in _found:
        adapters()
    adapter: Adapter = _found[queue].load()
    return adapter


def resolve_conflicts() -> None:
    """Replace rivals that `opentelemetry-instrument` loaded after us, or yield to them."""
    for queue in adapters():
        _instrumentor(queue).resolve_conflicts()


def _instrumentor(queue: str) -> QueueInstrumentor:
    if queue not in _INSTRUMENTORS:  # a stranger's adapter needs no class of its own
        kind = type(f"{queue}Instrumentor", (QueueInstrumentor,), {"queue": queue})
        return _INSTRUMENTORS.setdefault(queue, kind)()
    return _INSTRUMENTORS[queue]()


def _instrumented(rival: str) -> bool:
    with contextlib.suppress(Exception):
        return bool(_instance(rival).is_instrumented_by_opentelemetry)
    return False


def _instance(rival: str) -> Any:
    """Return a rival that is loaded already; it is never imported by us."""
    module, _, name = rival.partition(":")
    return getattr(sys.modules.get(module), name)()
