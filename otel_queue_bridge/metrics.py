"""The instruments: one set for all queue libraries of a process, and the cap on their names.

Counters are tables of our own that observable instruments read. A table can be cleared after a
fork, where the SDK would go on exporting what the parent had counted, and adding to it costs a
fraction of the SDK's `Counter.add`. Histograms are the SDK's.
"""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from opentelemetry import metrics
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.metrics import NoOpMeterProvider, Observation

from otel_queue_bridge import semconv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider

    from otel_queue_bridge.adapter import Outcome, Reading, Task
    from otel_queue_bridge.config import Config
    from otel_queue_bridge.semconv import Metric

_logger = logging.getLogger("otel_queue_bridge")

SCOPE = "otel_queue_bridge"
_OTHER = "_other"
_CACHED = 1000
"""Prepared records kept; queue names from outside may be endless."""
_READING_LIMIT = 1.0
"""Seconds that a broker may take to tell how deep its queues are."""
_HOLDING_LIMIT = 0.1
"""Seconds that a fork may wait for a collection that is under way: it takes a millisecond or so."""

Attributes = tuple[tuple[str, str], ...]
"""Of a data point, hashable."""

forward: Callable[..., None] | None = None
"""In a forked child: where `Instruments.record` sends its arguments, to be recorded there."""


class _Counter:
    """A table of counts."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[Attributes, int] = {}

    def add(self, attributes: Attributes) -> None:
        with self._lock:
            self._counts[attributes] = self._counts.get(attributes, 0) + 1

    def observe(self, _: CallbackOptions) -> list[Observation]:
        with self._lock:
            counts = list(self._counts.items())
        return [Observation(count, dict(attributes)) for attributes, count in counts]


class _Gauge:
    """What several sources read, in one instrument.

    A second instrument of the same name would be dropped by the SDK, without a word.
    """

    def __init__(self, *, summed: bool) -> None:
        self.sources: list[_Limited] = []
        self._summed = summed
        self._ended: dict[Attributes, int] = {}

    def observe(self, _: CallbackOptions) -> list[Observation]:
        values = self._ended.copy()
        for source in tuple(self.sources):
            for value, attributes in source():
                before = values.get(attributes, 0) if self._summed else 0
                values[attributes] = before + value
        return [Observation(value, dict(attributes)) for attributes, value in values.items()]

    def end(self, source: _Limited) -> None:
        """Read this no more; what it adds to a sum is 0 from now on."""
        with suppress(ValueError):  # gone already, after a fork
            self.sources.remove(source)
            if self._summed:
                self._ended.update((attributes, 0) for _, attributes in source.last)

    def clear(self) -> None:
        self.sources.clear()
        self._ended.clear()


class Instruments:
    """Those of one meter provider, each made when first used."""

    def __init__(self, provider: MeterProvider) -> None:
        self._meter = provider.get_meter(
            SCOPE, version("otel-queue-bridge"), schema_url=semconv.SCHEMA_URL
        )
        self._making = threading.Lock()
        self._counters: dict[str, _Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._gauges: dict[str, _Gauge] = {}

    def record(
        self, name: str, unit: str, description: str, attributes: Attributes, value: float | None
    ) -> None:
        """Add one to a counter, or, with a value, record it in a histogram."""
        if forward is not None:
            forward(name, unit, description, attributes, value)
        elif value is None:
            counter = self._counters.get(name)
            if counter is None:
                counter = self._counter(name, unit, description)
            counter.add(attributes)
        else:
            histogram = self._histograms.get(name)
            if histogram is None:
                histogram = self._histogram(name, unit, description)
            histogram.record(value, dict(attributes))

    def _counter(self, name: str, unit: str, description: str) -> _Counter:
        with self._making:
            if name not in self._counters:
                counter = _Counter()
                self._meter.create_observable_counter(name, [counter.observe], unit, description)
                self._counters[name] = counter
            return self._counters[name]

    def _histogram(self, name: str, unit: str, description: str) -> Histogram:
        with self._making:
            if name not in self._histograms:
                self._histograms[name] = self._meter.create_histogram(
                    name, unit, description, explicit_bucket_boundaries_advisory=semconv.BUCKETS
                )
            return self._histograms[name]

    def gauge(self, name: str, unit: str, description: str, *, summed: bool) -> _Gauge:
        """Return the gauge of this name; `summed` if its values add up over processes."""
        with self._making:
            if name not in self._gauges:
                gauge = self._gauges[name] = _Gauge(summed=summed)
                create = (
                    self._meter.create_observable_up_down_counter
                    if summed
                    else self._meter.create_observable_gauge
                )
                create(name, [gauge.observe], unit, description)
            return self._gauges[name]

    def start_from_nothing(self) -> None:
        """In a forked child: forget what the parent counted and watched."""
        self._making = threading.Lock()
        for counter in self._counters.values():
            counter.clear()
        for gauge in self._gauges.values():
            gauge.clear()


_instruments: WeakKeyDictionary[MeterProvider, Instruments] = WeakKeyDictionary()

_held: list[Any] = []
"""Locks of the SDK that a thread takes in order to fork."""


def hold() -> None:
    """Before a fork: have the child's readers wait until it has started from nothing.

    The SDK (1.45) restarts them in the child before it is our turn, and on a busy machine that
    may be an interval of export later. A lock that is taken is taken in the child, too; and no
    thread of the parent's is in the middle of a collection then.
    """
    for provider in list(_instruments):
        lock = getattr(getattr(provider, "_measurement_consumer", None), "_lock", None)
        if lock is not None and lock.acquire(timeout=_HOLDING_LIMIT):
            _held.append(lock)


def release() -> None:
    """After a fork, in either process: let the readers go on."""
    while _held:
        _held.pop().release()


def start_from_nothing() -> None:
    """In a forked child: record as if this process had just begun.

    The SDK (1.45) copies its storages with the process and restarts their export: what the
    parent had counted would be exported again, as this child's. And a lock that another
    thread held at the fork stays locked for ever.
    """
    for provider, instruments in list(_instruments.items()):
        instruments.start_from_nothing()
        try:
            consumer: Any = provider._measurement_consumer  # type: ignore[attr-defined]  # noqa: SLF001
            for reader, storage in consumer._reader_storages.items():  # noqa: SLF001
                reader._export_lock = threading.Lock()  # noqa: SLF001
                storage._lock = threading.RLock()  # noqa: SLF001
                matches = storage._instrument_view_instrument_matches  # noqa: SLF001
                for instrument in list(matches):
                    if instrument.instrumentation_scope.name == SCOPE:
                        del matches[instrument]
            if consumer._lock not in _held:  # noqa: SLF001
                consumer._lock = threading.Lock()  # noqa: SLF001
        except AttributeError as error:
            _logger.warning("this SDK keeps its metrics elsewhere (%s)", error)


class Measurements:
    """What is measured of one queue library, under its names."""

    def __init__(self, system: str, config: Config) -> None:
        self._config = config
        self._system = system
        self._naming = config.naming
        self._status = semconv.status_attribute(config.naming)
        self._resolved: Instruments | None = None
        self._tasks: set[str] = set()
        self._prepared: dict[
            tuple[str | None, ...], tuple[str, str, str, Attributes] | tuple[()]
        ] = {}

    @property
    def instruments(self) -> Instruments | None:
        """The instruments, once there is an SDK; it may be set up after instrument()."""
        if self._resolved is None and self._config.metrics:
            provider = self._config.meter_provider or metrics.get_meter_provider()
            if not isinstance(provider, (NoOpMeterProvider, _NotYet)):
                self._resolved = _instruments.setdefault(provider, Instruments(provider))
        return self._resolved

    def active(self) -> bool:
        """Tell whether anything is recorded."""
        return self.instruments is not None

    def submitted(
        self, task: Task, error_type: str | None, duration: float, *, handed_over: bool = True
    ) -> None:
        """Count a task that the caller handed over; a retry's submit is none."""
        retry = (task.attempt or 1) > 1 if task.retry is None else task.retry
        if handed_over and not retry:
            self._record(semconv.SUBMITTED, task)
        self._record(semconv.SUBMIT_DURATION, task, error_type=error_type, value=duration)

    def dispatched(self, task: Task, outcome: Outcome | None) -> None:
        """Count an attempt that a worker took; with an outcome, it ended there."""
        self._record(semconv.DISPATCHED, task)
        if outcome is not None:
            ended = semconv.RETRIED if outcome.status == "retry" else semconv.COMPLETED
            self._record(ended, task, None if ended is semconv.RETRIED else outcome.status)

    def attempted(
        self,
        task: Task,
        outcome: Outcome,
        error_type: str | None,
        duration: float | None,
        wait: float | None,
    ) -> None:
        """Record the end of an attempt; times in seconds, none if it did not run."""
        if outcome.status == "retry":
            self._record(semconv.RETRIED, task)
        else:
            self._record(semconv.COMPLETED, task, outcome.status, error_type)
        if duration is not None:
            self._record(semconv.DURATION, task, outcome.status, error_type, value=duration)
        if duration is not None and wait is not None:
            self._record(semconv.WAIT, task, value=wait)

    def relayed(
        self, name: str, unit: str, description: str, attributes: Any, value: float | None
    ) -> None:
        """Record what a child has reported, in JSON, which has no tuples."""
        if self.instruments is not None:
            pairs = tuple(map(tuple, attributes))
            self.instruments.record(name, unit, description, pairs, value)

    def watch(self, metric: Metric, read: Callable[[], Iterable[Reading]]) -> Callable[[], None]:
        """Read a gauge at each export; the function returned ends that."""
        instruments, name = self.instruments, metric.name(self._naming, self._system)
        if instruments is None or not name:
            return lambda: None
        gauge = instruments.gauge(
            name, metric.unit, metric.description, summed=metric is semconv.WORKERS
        )

        def source() -> list[tuple[int, Attributes]]:
            return [(reading.value, self._read_attributes(reading)) for reading in read()]

        limited = _Limited(source, f"{self._system} {metric.task}")
        gauge.sources.append(limited)
        return partial(gauge.end, limited)

    def _read_attributes(self, reading: Reading) -> Attributes:
        attributes = [(semconv.MESSAGING_SYSTEM, self._system)]
        if reading.queue is not None:
            attributes.append((semconv.MESSAGING_DESTINATION_NAME, reading.queue))
        if reading.priority is not None:
            attributes.append((semconv.TASK_PRIORITY, reading.priority))
        return tuple(attributes)

    def _record(
        self,
        metric: Metric,
        task: Task,
        status: str | None = None,
        error_type: str | None = None,
        *,
        value: float | None = None,
    ) -> None:
        instruments = self.instruments
        if instruments is None:
            return
        key = (metric.description, task.queue, task.name, status, error_type)
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = self._prepare(metric, key)
        if prepared:
            instruments.record(*prepared, value)

    def _prepare(
        self, metric: Metric, key: tuple[str | None, ...]
    ) -> tuple[str, str, str, Attributes] | tuple[()]:
        """Work out what is the same for every such record; nothing where it has no name."""
        _, queue, task, status, error_type = key
        if len(self._tasks) < self._config.max_task_names and task is not None:
            self._tasks.add(task)
        operation = _OPERATION.get(metric) if self._naming == "messaging" else None
        named = (
            (semconv.MESSAGING_SYSTEM, self._system),
            (semconv.MESSAGING_OPERATION_NAME, operation),
            (semconv.MESSAGING_DESTINATION_NAME, queue),
            (semconv.TASK_NAME, task if task in self._tasks else _OTHER),
            (self._status, status),
            (semconv.ERROR_TYPE, error_type),
        )
        attributes = tuple((name, value) for name, value in named if value is not None)
        name = metric.name(self._naming, self._system)
        prepared = (name, metric.unit_in(self._naming), metric.description, attributes)
        if len(self._prepared) >= _CACHED:
            self._prepared.clear()
        self._prepared[key] = found = prepared if name else ()
        return found


class _Limited:
    """A source that may hang or fail: then there is no reading, and one warning."""

    def __init__(self, source: Callable[[], list[tuple[int, Attributes]]], name: str) -> None:
        self._source = source
        self._name = name
        self._thread: threading.Thread | None = None
        self._warned = False
        self.last: list[tuple[int, Attributes]] = []

    def __call__(self) -> list[tuple[int, Attributes]]:
        if self._thread is not None and self._thread.is_alive():
            return []
        readings: list[list[tuple[int, Attributes]]] = []
        errors: list[str] = []
        self._thread = threading.Thread(target=self._read, args=(readings, errors), daemon=True)
        self._thread.start()
        self._thread.join(_READING_LIMIT)
        if readings:
            self._warned = False
            self.last = readings[0]
            return self.last
        if not self._warned:
            self._warned = True
            reason = errors[0] if errors else f"not within {_READING_LIMIT:g} s"
            _logger.warning("no reading of %s for now: %s", self._name, reason)
        return []

    def _read(self, readings: list[list[tuple[int, Attributes]]], errors: list[str]) -> None:
        try:
            with suppress_instrumentation():
                readings.append(self._source())
        except Exception as error:  # noqa: BLE001 - whatever a broker's client raises
            errors.append(type(error).__name__)


_OPERATION = {
    semconv.SUBMITTED: "submit",
    semconv.SUBMIT_DURATION: "submit",
    semconv.DISPATCHED: "dispatch",
    semconv.DURATION: "execute",
}
"""messaging.operation.name, which the conventions require of their metrics."""

_NotYet = type(metrics._internal._ProxyMeterProvider())  # noqa: SLF001 - has no public name
