"""One queue library, instrumented: the adapter's `Recorder`, and owner of all that is opened."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.context import (
    Context,
    attach,
    create_key,
    detach,
    get_current,
    set_value,
)
from opentelemetry.instrumentation.utils import suppress_instrumentation

from otel_queue_bridge import failures, semconv, versions
from otel_queue_bridge.failures import Reports
from otel_queue_bridge.forks import lifecycle, pull, spans
from otel_queue_bridge.forks.relay import Relay
from otel_queue_bridge.greenlets import warn_of_threads
from otel_queue_bridge.labels import LabelledOperations
from otel_queue_bridge.metrics import Measurements
from otel_queue_bridge.operation import Operations
from otel_queue_bridge.patching import Patches
from otel_queue_bridge.propagation import due_by
from otel_queue_bridge.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from opentelemetry.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

    from otel_queue_bridge.adapter import Adapter, Advice, Outcome, Reading, Task
    from otel_queue_bridge.config import Config
    from otel_queue_bridge.forks.relay import Line, Receivers
    from otel_queue_bridge.operation import Exchange, Operation
    from otel_queue_bridge.semconv import Metric
    from otel_queue_bridge.versions import Gaps


_logger = logging.getLogger("otel_queue_bridge")

_POLLING = create_key("otel_queue_bridge.polling")
"""Set where a worker polls: the suppression there is not the user's, and not for us."""


_SPANS, _METRICS = vars(trace), vars(metrics._internal)  # noqa: SLF001 - nothing public is as quick
_KNOWN = "_TRACER_PROVIDER" in _SPANS and "_METER_PROVIDER" in _METRICS
"""Whether this API keeps there which providers are set."""


_AS_IT_IS = contextlib.nullcontext()


class _Within:
    """A context that is current inside the `with`: `contextlib` would take longer than the rest."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> bool:
        self._token = attach(self._context)
        return True

    def __exit__(self, *_: object) -> None:
        detach(self._token)


def _polling() -> Context:
    """Return what polling adds to a context."""
    with _Within(Context()), suppress_instrumentation():
        return set_value(_POLLING, value=True)


_ADDED = _polling()
_SUPPRESSING = tuple(key for key in _ADDED if key != _POLLING)
"""The keys of OpenTelemetry's `suppress_instrumentation`."""


class Bridge:
    """One queue library, instrumented with one configuration, until `undo`."""

    def __init__(self, adapter: Adapter, config: Config, gaps: Gaps | None = None) -> None:
        """Instrument it; `gaps` are those of a version that nobody tested."""
        self.config = config
        self.system = adapter.system
        self._child_export = config.child_export or adapter.child_export
        self._depth_is_not_asked_for = (
            adapter.queries_for_depth and "queue_depth" not in config.origin
        )
        self._reports = reports = Reports(adapter.system)
        self._tracing = Tracing(adapter.system, config, adapter.span_names, reports)
        self._measurements = Measurements(adapter.system, config)
        kind = LabelledOperations if config.task_name or config.metric_attributes else Operations
        self._operations = kind(config, self._tracing, self._measurements, reports)
        self._patches = Patches(self, reports)
        self._on = True
        self._unset = False
        self._opened: list[_Opened] = []
        self._line: Line | None = None
        self._relayed: tuple[TracerProvider, ...] = ()
        self._parents: frozenset[int] | None = None
        self._diversion: spans.Diversion | None = None
        self._inherited: object = None
        """In a forked child: what its parent records metrics with."""
        failures.expect(self, adapter.interrupts)
        lifecycle.join(self)
        if gaps is not None:
            self._patches.expect(gaps)
        for hook in adapter.hooks:
            self._patches.install(hook)
        if gaps is not None:
            for module in versions.modules(adapter):
                self._patches.when_imported(module, module, gaps.tell)

    def undo(self) -> None:
        """Restore the library exactly, and close all that was opened."""
        self._on = False
        self._patches.undo()
        for opened in tuple(self._opened):
            opened.close()
        if self._diversion is not None:
            self._diversion.undo()
            self._diversion = None
        lifecycle.leave(self)
        failures.forget(self)

    def active(self) -> bool:
        """Tell whether there is anything to do: an SDK, and no suppression but our own."""
        if not self._tracing.records:
            # To ask for a provider that nobody has set takes a hundred times as long as this look.
            if (
                self._unset
                and _SPANS["_TRACER_PROVIDER"] is None
                and _METRICS["_METER_PROVIDER"] is None
            ):
                return False
            own = self.config.tracer_provider, self.config.meter_provider
            # Asked once: the environment may name a provider.
            self._unset = _KNOWN and own == (None, None)
            if not self._tracing.active() and not self._measurements.active():
                return False
        current = get_current()
        if current:
            for key in _SUPPRESSING:
                if current.get(key):
                    return bool(current.get(_POLLING))
        return True

    # Operations

    def submit(self, task: Task) -> Operation:
        return self._operations.submit(task)

    def store(self, task: Task) -> None:
        self._operations.store(task)

    def dispatch(
        self, task: Task, *, start_time: int | None = None, measured: bool = True
    ) -> Operation:
        return self._operations.dispatch(task, start_time, measured=measured)

    def execute(
        self, task: Task, *, start_time: int | None = None, measured: bool = False
    ) -> Operation:
        if not self._on:  # undone while it ran: how it ended was not seen
            return self._operations.unseen(task)
        return self._operations.execute(task, start_time, measured=measured)

    def parent_counts(self) -> bool:
        return self._line is not None and "count" in self._line.kinds

    def dispatched(self, task: Task) -> None:
        self._operations.dispatched(task)

    def attempted(
        self, task: Task, outcome: Outcome, *, started: float, duration: float | None
    ) -> None:
        if self._on:
            self._operations.attempted(task, outcome, started, duration)

    def exchange(
        self, name: str, carriers: Sequence[object], attributes: Mapping[str, AttributeValue]
    ) -> Exchange:
        fixed = {semconv.MESSAGING_SYSTEM: self.system, **attributes}
        return self._operations.exchange(name, carriers, fixed)

    def suppressed(self) -> AbstractContextManager[None]:
        return suppress_instrumentation()

    def polling(self) -> AbstractContextManager[object]:
        return self.start_polling() or _AS_IT_IS

    def start_polling(self) -> AbstractContextManager[object] | None:
        """Return what makes this context one of polling; None if it is, or need not be."""
        current = get_current()
        if _POLLING in current or not self.config.suppress_polling:
            return None
        return _Within(Context({**current, **_ADDED}) if current else _ADDED)

    def not_polling(self) -> AbstractContextManager[bool]:
        current = get_current()
        if _POLLING not in current:
            return contextlib.nullcontext(enter_result=False)
        return _Within(Context({key: current[key] for key in current.keys() - _ADDED.keys()}))

    # Gauges

    def watch_workers(
        self, read: Callable[..., Iterable[Reading]], of: object = None
    ) -> Callable[[], None]:
        providers = (*self._tracer_providers(), self._meter_provider())
        try:
            warn_of_threads(providers)
        except Exception as error:  # noqa: BLE001 - it reads what others have patched
            self._reports.report("watch_workers", error, "nobody looks for unpatched threads")
        if self._inherited and self._inherited is self._meter_provider():
            if pull.is_unserved(self._inherited):
                _logger.warning(pull.UNSERVED)
            self._inherited = None
        return self._watch(semconv.WORKERS, read, of)

    def watch_depth(
        self, read: Callable[..., Iterable[Reading]], of: object = None
    ) -> Callable[[], None]:
        if not self.config.queue_depth or self._depth_is_not_asked_for:
            return _nothing
        return self._watch(semconv.DEPTH, read, of)

    def _watch(
        self, metric: Metric, read: Callable[..., Iterable[Reading]], of: object
    ) -> Callable[[], None]:
        if not self._on:  # undone while a worker was starting
            return _nothing
        if of is not None:
            read = partial(_read_of, weakref.ref(of), read)
        return self._open(self._measurements.watch(metric, read), of).close

    def age(self, *carriers: object) -> float | None:
        due = due_by(carriers)
        return None if due is None else max(0.0, time.time() - due)

    # Forked children

    def relay(self, of: object = None) -> Relay:
        self._relayed = self._tracer_providers()
        apart = self._child_export == "relay"
        relay = Relay(self._receivers, self.config.flush_timeout, spans_apart=apart)
        self._open(relay.close, of)
        if not self._on:
            relay.close()
        return relay

    def _receivers(self) -> Receivers:
        receivers: dict[str, Callable[..., None]] = {"span": partial(spans.receive, self._relayed)}
        if self._measurements.active():
            receivers["count"] = _count
        return receivers

    def relayed(self, *facts: Any) -> None:
        """Record what a child has counted."""
        if isinstance(facts[-1], list):  # JSON has no tuples
            facts = (*facts[:-1], tuple(map(tuple, facts[-1])))
        self._measurements.record(*facts)

    def relay_spans(self, *, always: bool = False) -> None:
        wanted = always or self._child_export == "relay"
        if self._line is None or not wanted or self._diversion is not None:
            return
        way = self._line.apart or self._line
        self._diversion = spans.Diversion(self._tracer_providers(), self._parents, way.send)

    def descriptors(self) -> list[int]:
        return [] if self._line is None else self._line.descriptors()

    def tell(self, message: str) -> None:
        if self._line is not None:
            self._line.send("tell", message)

    def providers(self) -> tuple[object, ...]:
        return tuple(filter(None, (self.config.tracer_provider, self.config.meter_provider)))

    def enter_child(self, line: Line | None) -> None:
        """In a forked child: leave what the parent has opened to the parent."""
        if self._diversion is not None:  # what it sent through ends with another process
            self._diversion.undo()
            self._diversion = None
        if self._relayed:
            self._parents = spans.exporting_ids(self._relayed)
        self._line = line
        self._inherited = self._meter_provider()
        counted = line is not None and self.parent_counts()
        self._measurements.report_to(line.count if line is not None and counted else None)
        self._patches.enter_child()
        for opened in self._opened:
            opened.forget()
        self._opened.clear()

    def flush(self, *, metrics: bool = False) -> None:
        providers = self.holding()
        if metrics:
            providers += (self._meter_provider(),)
        lifecycle.flush(self.config.flush_timeout, *providers)

    def patience(self) -> float:
        return self.config.flush_timeout

    def holding(self) -> tuple[object, ...]:
        """Return the providers that may hold what no other process exports."""
        providers: tuple[Any, ...] = self._tracer_providers()
        if self._diversion is not None and self._diversion.covers_all(*providers):
            providers = ()
        if self._measurements.counted():
            providers += (self._meter_provider(),)
        return providers

    # What was opened, and for whom

    def _open(self, close: Callable[[], None], of: object) -> _Opened:
        opened = _Opened(close, self._opened)
        if of is not None:
            opened.belong_to(of)
        return opened

    def close(self, of: object) -> None:
        for opened in tuple(self._opened):
            if opened.belongs_to(of):
                opened.close()

    # Patches

    def patch(self, owner: object, attribute: str, advice: Advice) -> None:
        self._patches.patch(owner, attribute, advice)

    def advised(self, function: Callable[..., Any], advice: Advice) -> Callable[..., Any]:
        return self._patches.advised(function, advice)

    def silence(self, functions: Iterable[str]) -> None:
        """Have the library's own telemetry record nothing."""
        for function in functions:
            self._patches.replace(function, _record_nothing)

    def _tracer_providers(self) -> tuple[TracerProvider, ...]:
        """Return the one that we record with, and the one that the user does."""
        own = self.config.tracer_provider
        everybodys = trace.get_tracer_provider()
        return (everybodys,) if own in (None, everybodys) else (own, everybodys)

    def _meter_provider(self) -> object:
        return self.config.meter_provider or metrics.get_meter_provider()


class _Opened:
    """Something that is open: it closes once, by hand, by `undo`, or when its owner is gone."""

    def __init__(self, close: Callable[[], None], among: list[_Opened]) -> None:
        self._close = close
        self._among = among
        self._owner: Callable[[], object] = _nothing
        self._finalizer: weakref.finalize[Any, Any] | None = None
        among.append(self)

    def belong_to(self, owner: object) -> None:
        self._owner = weakref.ref(owner)
        self._finalizer = weakref.finalize(owner, self.close)
        self._finalizer.atexit = False

    def belongs_to(self, owner: object) -> bool:
        return self._owner() is owner

    def close(self) -> None:
        try:  # by itself whole: a collection of garbage may come in between, and close it
            self._among.remove(self)
        except ValueError:
            return
        self.forget()
        self._close()

    def forget(self) -> None:
        """Let it be: it is closed, or belongs to another process."""
        if self._finalizer is not None:
            self._finalizer.detach()


def _read_of(
    owner: Callable[[], Any], read: Callable[[Any], Iterable[Reading]]
) -> Iterable[Reading]:
    found = owner()
    return () if found is None else read(found)


def _count(system: str, *facts: Any) -> None:
    """Record what a child has counted, for whichever queue it did so."""
    for bridge in lifecycle.participants():
        if isinstance(bridge, Bridge) and bridge.system == system:
            bridge.relayed(*facts)
            return


def _record_nothing(*_: object, **__: object) -> AbstractContextManager[None]:
    return contextlib.nullcontext()


def _nothing() -> None:
    """Stand in for closing what was never opened."""
