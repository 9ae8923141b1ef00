"""The instruments of one meter provider, shared by all queues of a process: tables and gauges.

An instrument hands out a cell for each attribute set: what is recorded again and again costs one
call. Counters are tables of ours that observable instruments read. A table can be cleared after a
fork, where the SDK would go on exporting what the parent had counted, and adding to it costs a
fraction of the SDK's `Counter.add`. Histograms are the SDK's.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from math import inf
from operator import add
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import Observation

from otel_queue_bridge import semconv
from otel_queue_bridge.failures import pass_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry import metrics
    from opentelemetry.metrics import CallbackOptions, MeterProvider

    from otel_queue_bridge.semconv import Metric

_logger = logging.getLogger("otel_queue_bridge")

SCOPE = "otel_queue_bridge"
_LARGEST = 2000
"""Attribute sets of one instrument, as the metrics SDK specification has it by default."""
_EARLY = 1000
"""Records that a histogram keeps until the SDK has made it."""
_READING_LIMIT = 1.0
"""Seconds that a broker may take to tell how deep its queues are."""
_REGISTERING_LIMIT = 0.1
"""Seconds to wait for the SDK to take an instrument; it goes on without us."""

Value = str | bool | int
Attributes = tuple[tuple[str, Value], ...]
"""Of a data point, hashable."""
Row = tuple[Attributes, "dict[str, float]"]
"""What was read of workers or of a queue: the values by the metrics' keys."""

_OVERFLOW: Attributes = ((semconv.OVERFLOW, True),)


class Count:
    """One attribute set of a counter."""

    __slots__ = ("_lock", "attributes", "count")

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes
        self.count = 0
        self._lock = threading.Lock()

    def add(self) -> None:
        with self._lock:
            self.count += 1


class Counter:
    """A table of counts."""

    def __init__(self) -> None:
        self._cells: _Cells[Count] = _Cells(Count)

    def cell(self, attributes: Attributes) -> Count:
        """Return the count of these attributes, the same at each call."""
        return self._cells.of(attributes)

    def clear(self) -> None:
        self._cells.clear()

    def counted(self) -> bool:
        return any(cell.count for cell in self._cells.all())

    def observe(self, _: CallbackOptions) -> list[Observation]:
        return [Observation(cell.count, dict(cell.attributes)) for cell in self._cells.all()]


class Distribution:
    """One attribute set of a histogram."""

    __slots__ = ("_feed", "_histogram", "attributes")

    def __init__(self, histogram: Histogram, attributes: Attributes) -> None:
        self._histogram = histogram
        self.attributes = attributes
        self._feed: Callable[[float], bool] | None = None

    def record(self, value: float) -> None:
        """Record a value; the SDK refuses one that is negative or not finite, with a warning."""
        feed = self._feed
        if feed is None or not 0 <= value < inf or not feed(value):
            self._feed = self._histogram.record(self.attributes, value)


class Histogram:
    """One of the SDK's, usable before the SDK has made it."""

    def __init__(self) -> None:
        self._made: metrics.Histogram | None = None
        self._cells: _Cells[Distribution] = _Cells(partial(Distribution, self))
        self._lock = threading.Lock()
        self._early: list[tuple[Attributes, float]] = []

    def cell(self, attributes: Attributes) -> Distribution:
        """Return the distribution of these attributes, the same at each call."""
        return self._cells.of(attributes)

    def clear(self) -> None:
        self._lock = threading.Lock()
        self._early = []
        self._cells.clear()

    def record(self, attributes: Attributes, value: float) -> Callable[[float], bool] | None:
        """Record a value; return what records the next ones of these attributes, once there is."""
        if self._made is None:
            with self._lock:
                if self._made is None:
                    if len(self._early) < _EARLY:
                        self._early.append((attributes, value))
                    return None
        self._made.record(value, dict(attributes))
        return _feeder(self._made, dict(attributes))

    def start(self, made: metrics.Histogram) -> None:
        with self._lock:
            self._made = made
            for attributes, value in self._early:
                made.record(value, dict(attributes))
            self._early.clear()


_C = TypeVar("_C")


class _Cells(Generic[_C]):
    """The cells of one instrument, by attributes; those past the limit are one."""

    def __init__(self, make: Callable[[Attributes], _C]) -> None:
        self._make = make
        self._cells: dict[Attributes, _C] = {}
        self._lock = threading.Lock()

    def of(self, attributes: Attributes) -> _C:
        cell = self._cells.get(attributes)
        if cell is None:
            with self._lock:
                if attributes not in self._cells and len(self._cells) >= _LARGEST:
                    attributes = _OVERFLOW
                cell = self._cells.setdefault(attributes, self._make(attributes))
        return cell

    def all(self) -> list[_C]:
        with self._lock:
            return list(self._cells.values())

    def clear(self) -> None:
        """In a forked child: begin with nothing; cells handed out before are the parent's."""
        self._lock = threading.Lock()
        self._inherited = self._cells  # kept: to free it would copy the parent's pages
        self._cells = {}


def _feeder(made: metrics.Histogram, attributes: dict[str, Value]) -> Callable[[float], bool]:
    """Return the cheapest function that records a value in this histogram."""
    if type(made).__module__.startswith("opentelemetry.sdk."):
        try:
            from otel_queue_bridge.aggregations import feeder  # noqa: PLC0415 - needs the SDK

            return feeder(made, attributes)
        except Exception as error:  # noqa: BLE001 - an SDK that is different, or set up differently
            pass_on(error)

    def feed(value: float) -> bool:
        made.record(value, attributes)
        return True

    return feed


class Gauge:
    """What several sources read, in one instrument.

    A second instrument of the same name would be dropped by the SDK, without a word.
    """

    def __init__(self, metric: Metric) -> None:
        self._key = metric.key
        self.summed = metric in semconv.READ_WITH[semconv.WORKERS]
        """Whether its values add up over processes."""
        self._combine = max if metric is semconv.OLDEST else add
        self._sources: list[_Source] = []
        self._removed: dict[Attributes, float] = {}

    def observe(self, _: CallbackOptions) -> list[Observation]:
        values = self._removed.copy()
        for source in tuple(self._sources):
            read: dict[Attributes, float] = values if self.summed else {}
            for attributes, found in source.read_for(self):
                if self._key in found:
                    value = found[self._key]
                    read[attributes] = self._combine(read.get(attributes, 0), value)
            values.update(read)
        return [Observation(value, dict(attributes)) for attributes, value in values.items()]

    def add(self, source: _Source) -> None:
        self._sources.append(source)

    def remove(self, source: _Source) -> None:
        """Read this no more; what it adds to a sum is 0 from now on."""
        with suppress(ValueError):  # gone already, after a fork
            self._sources.remove(source)
            if self.summed:
                self._removed.update(
                    (attributes, 0) for attributes, found in source.last if self._key in found
                )

    def clear(self) -> None:
        self._sources.clear()
        self._removed.clear()


class Instruments:
    """Those of one meter provider, each made when first asked for."""

    def __init__(self, provider: MeterProvider) -> None:
        self.meter = provider.get_meter(
            SCOPE, version("otel-queue-bridge"), schema_url=semconv.SCHEMA_URL
        )
        self._lock = threading.Lock()
        self._made: dict[str, Counter | Histogram | Gauge] = {}
        self.pending: dict[str, Callable[[], None]] = {}
        """What the SDK does not know yet, by name."""

    def counter(self, name: str, unit: str, description: str) -> Counter:
        def register(counter: Counter) -> None:
            self.meter.create_observable_counter(name, [counter.observe], unit, description)

        counter: Counter = self._get(name, Counter, register)
        return counter

    def histogram(self, name: str, unit: str, description: str) -> Histogram:
        def register(histogram: Histogram) -> None:
            made = self.meter.create_histogram(
                name, unit, description, explicit_bucket_boundaries_advisory=semconv.BUCKETS
            )
            histogram.start(made)

        histogram: Histogram = self._get(name, Histogram, register)
        return histogram

    def gauge(self, name: str, metric: Metric) -> Gauge:
        """Return the gauge of this name."""

        def register(gauge: Gauge) -> None:
            create = (
                self.meter.create_observable_up_down_counter
                if gauge.summed
                else self.meter.create_observable_gauge
            )
            create(name, [gauge.observe], metric.unit, metric.description)

        gauge: Gauge = self._get(name, partial(Gauge, metric), register)
        return gauge

    def _get(self, name: str, make: Callable[[], Any], register: Callable[[Any], None]) -> Any:
        found = self._made.get(name)
        if found is None:
            with self._lock:
                found = self._made.get(name)
                if found is None:
                    found = self._made[name] = make()
                    self.pending[name] = partial(register, found)
        return found

    def register(self) -> None:
        """Have the SDK know what was made since, without waiting for a collection under way.

        The SDK (1.45 `SynchronousMeasurementConsumer`) holds one lock while it runs everybody's
        callbacks, and takes a new instrument under the same lock: a slow callback of the user's
        would hold up the first task.
        """
        if not self.pending:
            return
        thread = threading.Thread(
            target=self._register, name="otel_queue_bridge.register", daemon=True
        )
        with suppress(RuntimeError):  # the interpreter is shutting down, and starts no thread
            thread.start()
            thread.join(_REGISTERING_LIMIT)

    def _register(self) -> None:
        # Histograms first: the SDK takes them while it collects, and they keep few records so long.
        waiting = tuple(self.pending)
        for name in sorted(waiting, key=lambda name: not isinstance(self._made[name], Histogram)):
            register = self.pending.get(name)
            if register is None:
                continue
            try:
                register()
            except Exception as error:  # noqa: BLE001 - an SDK of whatever kind
                _logger.warning("no metric %s: %s", name, type(error).__name__)
            self.pending.pop(name, None)

    def counted(self) -> bool:
        """Tell whether any counter holds anything."""
        return any(
            isinstance(made, Counter) and made.counted() for made in tuple(self._made.values())
        )

    def start_from_nothing(self) -> None:
        """In a forked child: forget what the parent counted and watched."""
        self._lock = threading.Lock()
        for made in tuple(self._made.values()):
            made.clear()


_instruments: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()


def instruments_of(provider: MeterProvider) -> Instruments:
    """Return those of this provider: the same for every queue, and for whoever comes back."""
    found = _instruments.get(provider)
    return _instruments.setdefault(provider, Instruments(provider)) if found is None else found


def all_instruments() -> list[tuple[MeterProvider, Instruments]]:
    return list(_instruments.items())


class _Source:
    """A reading for several gauges that may hang or fail: then there is none, and one warning."""

    def __init__(self, read: Callable[[], Iterable[Row]], name: str) -> None:
        self._read = read
        self._name = name
        self._thread: threading.Thread | None = None
        self._warned = False
        self._found: list[Row] = []
        self._served: set[Gauge] = set()
        self.last: list[Row] = []
        """What the last reading that did not fail has found."""

    def read_for(self, gauge: Gauge) -> list[Row]:
        """Return what was read for this export, in which each gauge asks once."""
        if not self._served or gauge in self._served:
            self._served = set()
            self._found = self._read_in_time()
        self._served.add(gauge)
        return self._found

    def _read_in_time(self) -> list[Row]:
        if self._thread is not None and self._thread.is_alive():
            return []
        readings: list[list[Row]] = []
        errors: list[str] = []
        thread = threading.Thread(target=self._run, args=(readings, errors), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the interpreter is shutting down, and starts no thread
            return []
        self._thread = thread
        thread.join(_READING_LIMIT)
        if readings:
            self._warned = False
            self.last = readings[0]
            return self.last
        if not self._warned:
            self._warned = True
            reason = errors[0] if errors else f"not within {_READING_LIMIT:g} s"
            _logger.warning("no reading of %s for now: %s", self._name, reason)
        return []

    def _run(self, readings: list[list[Row]], errors: list[str]) -> None:
        try:
            with suppress_instrumentation():
                readings.append(list(self._read()))
        except Exception as error:  # noqa: BLE001 - whatever a broker's client raises
            errors.append(type(error).__name__)


def watch(
    gauges: Iterable[Gauge], read: Callable[[], Iterable[Row]], name: str
) -> Callable[[], None]:
    """Read this once at each export, for all these gauges; the function returned ends that."""
    source, watching = _Source(read, name), tuple(gauges)
    for gauge in watching:
        gauge.add(source)

    def end() -> None:
        for gauge in watching:
            gauge.remove(source)

    return end
