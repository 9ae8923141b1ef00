"""What is counted and measured of the tasks of one queue."""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.metrics import NoOpMeterProvider

from otel_queue_bridge import semconv
from otel_queue_bridge.instruments import instruments_of, watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_queue_bridge.adapter import Outcome, Reading, Task
    from otel_queue_bridge.config import Config
    from otel_queue_bridge.instruments import Attributes, Counter, Histogram, Instruments, Row
    from otel_queue_bridge.semconv import Metric

_OTHER = "_other"
_CACHED = 2000
"""Cells kept for the facts of the latest tasks; any other cell is looked up again."""

_api = metrics._internal  # noqa: SLF001 - what follows has no public name
_NotYet = type(_api._ProxyMeterProvider())  # noqa: SLF001

_OPERATION = {
    semconv.SUBMITTED.key: "submit",
    semconv.SUBMIT_DURATION.key: "submit",
    semconv.DISPATCHED.key: "dispatch",
    semconv.DURATION.key: "execute",
}
"""messaging.operation.name, which the conventions require of their metrics."""


class Measurements:
    """What is measured of one queue library, under its names."""

    def __init__(self, system: str, config: Config) -> None:
        self._config = config
        self._system = system
        self._naming = config.naming
        self._status = semconv.status_attribute(config.naming)
        self._times_submits = bool(semconv.SUBMIT_DURATION.name(config.naming, system))
        self._looked = False
        self._resolved: Instruments | None = None
        self._tasks = _Names(config.max_task_names)
        self._queues = _Names(config.max_queue_names)
        self._cell = lru_cache(_CACHED)(self._find_cell)
        self._send: Callable[..., bool] | None = None

    @property
    def instruments(self) -> Instruments | None:
        """The instruments, once there is an SDK; it may be set up after instrument()."""
        if self._resolved is None and self._config.metrics:
            own = self._config.meter_provider
            if own is None and self._looked and getattr(_api, "_METER_PROVIDER", _api) is None:
                return None  # as in `Bridge.active`
            self._looked = True
            provider = own or metrics.get_meter_provider()
            if not isinstance(provider, (NoOpMeterProvider, _NotYet)):
                found = instruments_of(provider)
                for metric in semconv.RECORDED.values():
                    self._instrument(found, metric)
                found.register()
                self._resolved = found
        return self._resolved

    def active(self) -> bool:
        """Tell whether anything is recorded."""
        return self.instruments is not None

    def counted(self) -> bool:
        """Tell whether this process has counted anything itself, since it was forked."""
        return self._resolved is not None and self._resolved.counted()

    def report_to(self, send: Callable[..., bool] | None) -> None:
        """In a forked child: have what is counted recorded by the parent, or, by None, here."""
        self._send = send
        self._inherited = self._cell  # kept: to free it would copy the parent's pages
        self._cell = lru_cache(_CACHED)(self._find_cell)
        self._tasks.free()
        self._queues.free()

    def submitted(
        self, task: Task, error_type: str | None, duration: float, *, handed_over: bool = True
    ) -> None:
        """Count a task that the caller handed over; a retry's submit is none."""
        if handed_over and not task.is_retry:
            self._record(semconv.SUBMITTED, task)
        if self._times_submits:
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

    def record(  # noqa: PLR0913, PLR0917 - as a child sends it
        self,
        key: str,
        value: float | None,
        task: str,
        queue: str,
        status: str | None,
        error_type: str | None,
        more: Attributes = (),
    ) -> None:
        """Record one thing that has happened, here or in a child, under this process's caps."""
        if self._resolved is None and self.instruments is None:
            return
        cell = self._cell(key, task, queue, status, error_type, more)
        if cell is None:
            return
        if value is None:
            cell.add()
        else:
            cell.record(value)

    def watch(self, metric: Metric, read: Callable[[], Iterable[Reading]]) -> Callable[[], None]:
        """Read workers or queues at each export; the function returned ends that.

        `metric` is WORKERS or DEPTH, and stands for all that is read with it.
        """
        instruments, together = self.instruments, semconv.READ_WITH[metric]
        if instruments is None or not metric.name(self._naming, self._system):
            return lambda: None
        gauges = [instruments.gauge(m.name(self._naming, self._system), m) for m in together]
        instruments.register()

        def source() -> Iterable[Row]:
            return [(self._read_attributes(one), _values(metric, one)) for one in read()]

        return watch(gauges, source, f"{self._system} {metric.task}")

    def _read_attributes(self, reading: Reading) -> Attributes:
        attributes = [(semconv.MESSAGING_SYSTEM, self._system)]
        if reading.queue is not None:
            queue = self._queues.capped(reading.queue)
            attributes.append((semconv.MESSAGING_DESTINATION_NAME, queue))
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
        facts: tuple[Any, ...] = (metric.key, value, task.name, task.queue, status, error_type)
        if task.metric_attributes:
            facts += (task.metric_attributes,)
        if self._send is None or not self._send(self._system, *facts):
            self.record(*facts)

    def _find_cell(  # noqa: PLR0913, PLR0917 - called by `record` only
        self,
        key: str,
        task: str,
        queue: str,
        status: str | None,
        error_type: str | None,
        more: Attributes = (),
    ) -> Any:
        """Return the cell of a metric for these facts; None where the metric has no name."""
        instruments = self.instruments
        if instruments is None:
            return None
        instrument = self._instrument(instruments, semconv.RECORDED[key])
        if instrument is None:
            return None
        operation = _OPERATION.get(key) if self._naming == "messaging" else None
        named = (
            *more,  # first: where one is called like ours, ours counts
            (semconv.MESSAGING_SYSTEM, self._system),
            (semconv.MESSAGING_OPERATION_NAME, operation),
            (semconv.MESSAGING_DESTINATION_NAME, self._queues.capped(queue)),
            (semconv.TASK_NAME, self._tasks.capped(task)),
            (self._status, status),
            (semconv.ERROR_TYPE, error_type),
        )
        return instrument.cell(tuple((name, value) for name, value in named if value is not None))

    def _instrument(self, instruments: Instruments, metric: Metric) -> Counter | Histogram | None:
        name = metric.name(self._naming, self._system)
        if not name:
            return None
        unit = metric.unit_in(self._naming)
        if metric in semconv.COUNTERS:
            return instruments.counter(name, unit, metric.description)
        return instruments.histogram(name, unit, metric.description)


def _values(metric: Metric, reading: Reading) -> dict[str, float]:
    """Return what is known, by key."""
    busy = reading.busy
    if busy is not None and reading.value is not None:
        busy = min(busy, reading.value)  # they are read one after the other
    found = {
        metric.key: reading.value,
        semconv.BUSY.key: busy,
        semconv.DELAYED.key: reading.delayed,
        semconv.DEAD.key: reading.dead,
        semconv.OLDEST.key: reading.oldest,
    }
    return {key: value for key, value in found.items() if value is not None}


class _Names:
    """The first names that come, up to a number; what comes later is `_other`."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._names: set[str] = set()
        self.free()

    def free(self) -> None:
        """In a forked child: another thread may have held the lock at the fork."""
        self._lock = threading.Lock()

    def capped(self, name: str) -> str:
        if name in self._names:
            return name
        with self._lock:
            if len(self._names) < self._number:
                self._names.add(name)
            return name if name in self._names else _OTHER
