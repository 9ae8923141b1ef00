"""The queue table: rates, waits and runs of each queue and task over the last 15 minutes.

Spans and metrics are counted apart, as they arrive, so the table outlives the traces. A row shows
the source that has counted more: spans may be sampled, and metrics may be off, or have begun
before this process did.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from otel_queue_bridge import semconv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from otel_queue_bridge.otlp import Point, Span

WINDOW = 900
STEP = 15
"""Seconds."""
_STEPS = WINDOW // STEP
_ROWS = 2_000
_SERIES = 20_000
"""The most rows and series of metrics that are kept; later ones are ignored."""
_PROCESSES = 200
"""The most processes whose gauges are kept."""
_MOST = 2**53
"""A larger count is ignored: it cannot be right."""
_SAMPLES = 5
_GROWTH = math.log(1.05)
"""Each bucket of a distribution is 5 % wider than the one before it."""
_FRESH = 150.0
"""Seconds for which a gauge counts: two exports at the SDK's default of 60, and a bit."""
_SPREAD = 20
"""Over so many places the counts of one bucket of a histogram are spread."""
_OF_WORKERS, _OF_QUEUES = (
    {one.key for one in semconv.READ_WITH[first]} for first in (semconv.WORKERS, semconv.DEPTH)
)


class Key(NamedTuple):
    system: str
    queue: str
    task: str


class Sample(NamedTuple):
    """An attempt that is worth a look; durations in milliseconds."""

    duration: float
    trace_id: str
    task_id: str
    start_ms: float


@dataclass(slots=True)
class Bucket:
    """What was counted in one step of time."""

    submitted: float = 0
    completed: float = 0
    failed: float = 0
    retried: float = 0
    wait: Counter[int] = field(default_factory=Counter)
    run: Counter[int] = field(default_factory=Counter)
    """Distributions of milliseconds, by bucket."""


class Counted:
    """What one source has counted of one row, in steps of time."""

    def __init__(self) -> None:
        self._buckets: deque[tuple[int, Bucket]] = deque(maxlen=_STEPS)

    def at(self, step: int) -> Bucket:
        """Return the bucket of a step; what is older than the newest goes there, too."""
        if not self._buckets or self._buckets[-1][0] < step:
            self._buckets.append((step, Bucket()))
        for number, bucket in reversed(self._buckets):
            if number <= step:
                return bucket
        return self._buckets[0][1]

    def total(self, step: int) -> Bucket:
        """Sum up the window that ends with this step."""
        total = Bucket()
        for number, bucket in self._buckets:
            if number > step - _STEPS:
                total.submitted += bucket.submitted
                total.completed += bucket.completed
                total.failed += bucket.failed
                total.retried += bucket.retried
                total.wait.update(bucket.wait)
                total.run.update(bucket.run)
        return total

    def series(self, step: int) -> dict[str, list[float | None]]:
        found = dict(self._buckets)
        buckets = [found.get(one) for one in range(step - _STEPS + 1, step + 1)]
        return {
            "submitted": [one.submitted if one else 0 for one in buckets],
            "failed": [one.failed if one else 0 for one in buckets],
            "wait_p95_ms": [quantile(one.wait, 0.95) if one else None for one in buckets],
        }


class Row:
    """One queue and task."""

    def __init__(self) -> None:
        self.spans = Counted()
        self.metrics = Counted()
        self.last_seen = 0.0
        self.failed: deque[Sample] = deque(maxlen=_SAMPLES)
        self.slow: list[Sample] = []


class Queues:
    """All rows. It is guarded by the lock of the store that feeds it."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        """Tells the end of the window, in seconds since the epoch."""
        self._rows: dict[Key, Row] = {}
        self._series: dict[tuple[object, ...], Point] = {}
        """The last cumulative point of each series."""
        self._gauges: dict[tuple[str, str], dict[str, tuple[float, float]]] = {}
        """By metric and queue: for each process when it said so, and what."""
        self._metrics: dict[tuple[str, str], str] = {}

    def add_span(self, span: Span) -> None:
        attributes = span.attributes
        step = attributes.get(semconv.MESSAGING_OPERATION_NAME)
        row = self._row(attributes)
        if row is None or step not in ("submit", "dispatch", "execute"):
            return
        row.last_seen = max(row.last_seen, span.end / 1e6)
        bucket = row.spans.at(self._step(span.end / 1e9))
        tasks = min(number(attributes.get(semconv.MESSAGING_BATCH_MESSAGE_COUNT)) or 1, _MOST)
        status = attributes.get(semconv.TASK_STATUS, attributes.get("status"))
        if step == "submit":
            first = attributes.get(semconv.TASK_ATTEMPT, 1) == 1
            bucket.submitted += first and span.status != "ERROR"
            return
        if status is None:
            return
        if status == "retry":
            bucket.retried += tasks
        else:
            bucket.completed += tasks
            bucket.failed += tasks * (status == "failure")
        if step == "execute":
            milliseconds = (span.end - span.start) / 1e6
            bucket.run[_place(milliseconds)] += 1
            wait = number(attributes.get(semconv.TASK_WAIT))
            if wait is not None:
                bucket.wait[_place(wait * 1e3)] += 1
            self._sample(row, span, milliseconds, failed=status == "failure")

    @staticmethod
    def _sample(row: Row, span: Span, milliseconds: float, *, failed: bool) -> None:
        task_id = str(span.attributes.get(semconv.MESSAGING_MESSAGE_ID, ""))
        sample = Sample(milliseconds, span.trace_id, task_id, span.start / 1e6)
        if failed:
            row.failed.append(sample)
            return
        recent = [one for one in row.slow if one.start_ms > sample.start_ms - WINDOW * 1e3]
        row.slow = sorted([*recent, sample], reverse=True)[:_SAMPLES]

    def add_point(self, point: Point) -> None:
        system = str(point.attributes.get(semconv.MESSAGING_SYSTEM, ""))
        key = self._key_of(point.metric, system) if system else ""
        if number(point.value) is None:
            return
        if key in _OF_QUEUES or key in _OF_WORKERS:
            queue = str(point.attributes.get(semconv.MESSAGING_DESTINATION_NAME, ""))
            of = f"{system} {queue}" if key in _OF_QUEUES else system
            self._say((key, of), _process(point), point)
        elif key:
            self._count(key, point)

    def _say(self, gauge: tuple[str, str], process: str, point: Point) -> None:
        if gauge not in self._gauges and len(self._gauges) >= _ROWS:
            return
        said = self._gauges.setdefault(gauge, {})
        if len(said) >= _PROCESSES:
            old = self.clock() - _FRESH
            for one in [one for one, (when, _) in said.items() if when <= old]:
                del said[one]
        if len(said) < _PROCESSES or process in said:
            said[process] = (point.time / 1e9, point.value)

    def _key_of(self, metric: str, system: str) -> str:
        """Return our own name for a metric, whichever vocabulary it is in; empty for others'."""
        if (metric, system) not in self._metrics and len(self._metrics) < _SERIES:
            self._metrics[metric, system] = next(
                (
                    one.key
                    for one in (*semconv.RECORDED.values(), *semconv.GAUGES)
                    if metric in {one.name(naming, system) for naming in semconv.NAMINGS}
                ),
                "",
            )
        return self._metrics.get((metric, system), "")

    def _count(self, key: str, point: Point) -> None:
        row = self._row(point.attributes)
        series = (_process(point), point.metric, *sorted(map(str, point.attributes.items())))
        before = self._series.get(series)
        if row is None or (before is None and len(self._series) >= _SERIES):
            return
        if point.temporality == "CUMULATIVE":
            self._series[series] = point
            if before is None and point.start / 1e9 < self.clock() - WINDOW:
                return  # it has counted for longer than the table goes back
            if before is not None and before.start != point.start:
                before = None
        else:
            before = None
        count = (point.count or point.value) - ((before.count or before.value) if before else 0)
        if not 0 < count < _MOST:
            return
        row.last_seen = max(row.last_seen, point.time / 1e6)
        bucket = row.metrics.at(self._step(point.time / 1e9))
        status = point.attributes.get(semconv.TASK_STATUS, point.attributes.get("status"))
        if key == "submitted":
            bucket.submitted += count
        elif key == "retried":
            bucket.retried += count
        elif key == "completed":
            bucket.completed += count
            bucket.failed += count if status == "failure" else 0
        elif key in ("duration", "wait"):
            into = bucket.run if key == "duration" else bucket.wait
            into.update(dict(_distribution(point, before)))

    def _row(self, attributes: dict[str, Any]) -> Row | None:
        names = (semconv.MESSAGING_SYSTEM, semconv.MESSAGING_DESTINATION_NAME, semconv.TASK_NAME)
        if names[0] not in attributes or names[2] not in attributes:
            return None
        key = Key(*(str(attributes.get(name, "")) for name in names))
        if key not in self._rows and len(self._rows) < _ROWS:
            self._rows[key] = Row()
        return self._rows.get(key)

    def keys(self) -> list[Key]:
        return sorted(self._rows)

    def table(self) -> list[dict[str, Any]]:
        """Return all rows, for JSON."""
        now = self.clock()
        return [self._shown(key, row, now) for key, row in sorted(self._rows.items())]

    def _shown(self, key: Key, row: Row, now: float) -> dict[str, Any]:
        step, queue = int(now // STEP), f"{key.system} {key.queue}"
        oldest = self._gauge("oldest", queue, now, max)
        held = key.system == semconv.HELD_BY_WORKERS and key.queue != semconv.HELD_BY_BROKER
        counted, source = row.spans, "spans"
        total = row.spans.total(step)
        by_metrics = row.metrics.total(step)
        if by_metrics.submitted + by_metrics.completed > total.submitted + total.completed:
            counted, total, source = row.metrics, by_metrics, "metrics"
        return {
            **key._asdict(),
            "submitted_per_s": total.submitted / WINDOW,
            "submitted": total.submitted,
            "completed": total.completed,
            "failed": total.failed,
            "wait_p50_ms": quantile(total.wait, 0.5),
            "wait_p95_ms": quantile(total.wait, 0.95),
            "run_p50_ms": quantile(total.run, 0.5),
            "run_p95_ms": quantile(total.run, 0.95),
            "failed_percent": 100 * total.failed / total.completed if total.completed else None,
            "retried": total.retried,
            "last_seen_ms": row.last_seen,
            "workers": self._gauge("workers", key.system, now, sum),
            "busy": self._gauge("busy", key.system, now, sum),
            "depth": self._gauge("depth", queue, now, max),
            "delayed": self._gauge("delayed", queue, now, sum if held else max),
            "dead": self._gauge("dead", queue, now, max),
            "oldest_ms": None if oldest is None else oldest * 1e3,
            "source": source,
            "series": counted.series(step),
            "samples": [
                {
                    "trace_id": sample.trace_id,
                    "why": why,
                    "duration_ms": sample.duration,
                    "start_ms": sample.start_ms,
                    "task_id": sample.task_id,
                }
                for why, samples in (("failed", reversed(row.failed)), ("slow", row.slow))
                for sample in samples
            ],
        }

    def _step(self, seconds: float) -> int:
        """Return the step of a time; clocks of other processes may be ahead of ours."""
        return int(min(seconds, self.clock()) // STEP)

    def _gauge(
        self, metric: str, of: str, now: float, combine: Callable[[Iterable[float]], float]
    ) -> float | None:
        said = self._gauges.get((metric, of), {})
        fresh = [value for when, value in said.values() if when > now - _FRESH]
        return combine(fresh) if fresh else None


def quantile(distribution: Counter[int], share: float) -> float | None:
    """Return the milliseconds that this share of all stays below; None if there are none."""
    rest = share * sum(distribution.values())
    for place in sorted(distribution):
        rest -= distribution[place]
        if rest <= 0:
            return math.exp((place + 0.5) * _GROWTH) / 1e3
    return None


def number(value: object) -> float | None:
    """Return a number from 0 that somebody has sent; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value < math.inf else None


def _place(milliseconds: float) -> int:
    """Return the bucket; the smallest is for one microsecond."""
    if not math.isfinite(milliseconds):
        return 0
    return int(math.log(max(milliseconds * 1e3, 1.0)) / _GROWTH)


def _distribution(point: Point, before: Point | None) -> Iterator[tuple[int, int]]:
    """Convert a histogram's new counts to our buckets; spread each of its buckets evenly."""
    earlier = before.bucket_counts if before else (0,) * len(point.bucket_counts)
    new = [now - then for now, then in zip(point.bucket_counts, earlier, strict=False)]
    bounds = (0.0, *point.bounds, point.bounds[-1] if point.bounds else 0.0)
    placed: Counter[int] = Counter()
    for (low, high), count in zip(pairwise(bounds), new, strict=False):
        for number in range(min(count, _SPREAD)):
            share = (number + 0.5) / min(count, _SPREAD)
            weight = count // _SPREAD + (number < count % _SPREAD) if count > _SPREAD else 1
            placed[_place((low + (high - low) * share) * 1e3)] += weight
    yield from placed.items()


def _process(point: Point) -> str:
    return f"{point.service} {point.resource.get('service.instance.id', '')}"
