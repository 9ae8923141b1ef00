"""Decide what is drawn beside each span of a trace, in the terminal and on the page alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_queue_bridge import semconv

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_queue_bridge.otlp import Span

_UNITS = (("s", 1e9), ("ms", 1e6), ("µs", 1e3))


@dataclass(frozen=True, slots=True)
class Axis:
    """The time axis that all rows share, in nanoseconds since the epoch."""

    begin: int
    end: int

    @classmethod
    def of(cls, spans: Sequence[Span]) -> Axis:
        begin = min((span.start for span in spans), default=0)
        return cls(begin, max((span.end for span in spans), default=begin))

    @property
    def length(self) -> int:
        return max(self.end - self.begin, 1)

    def position(self, time: float) -> float:
        """Return where a time lies on the axis, from 0 (begin) to 1 (end)."""
        return min(max((time - self.begin) / self.length, 0.0), 1.0)


def services(spans: Sequence[Span]) -> list[str]:
    """List the services in order of their first spans."""
    return list(dict.fromkeys(span.service for span in sorted(spans, key=lambda span: span.start)))


def waited(span: Span) -> float:
    """Return how many nanoseconds a task was in the queue before this attempt; 0 if unknown."""
    seconds = span.attributes.get(semconv.TASK_WAIT)
    return seconds * 1e9 if isinstance(seconds, int | float) else 0.0


def remarks(span: Span) -> list[str]:
    """Return the notes that stand beside a span: how long its task waited, and its error."""
    found = []
    if wait := waited(span):
        found.append(f"waited {duration(wait)}")
    if span.status == "ERROR":
        found.append(f"ERROR {span.attributes.get('error.type', '')}".rstrip())
    return found


def duration(nanoseconds: float) -> str:
    """Write a duration with three significant digits."""
    if not nanoseconds:
        return "0"
    unit, size = next((unit for unit in _UNITS if nanoseconds >= unit[1]), _UNITS[-1])
    return f"{float(f'{max(nanoseconds, 0) / size:.3g}'):g} {unit}"
