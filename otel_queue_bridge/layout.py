"""Decide where each span is drawn and what is said of it: in a terminal, a page or a notebook."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from otel_queue_bridge import semconv

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from otel_queue_bridge.otlp import Span

COLOURS = ("#4c82ee", "#e0862b", "#23a28e", "#9a6cf0", "#e0609b", "#8f9f30", "#3aa0c9", "#b5794a")
"""One for each service, and again from the first; they are seen on light and on dark paper."""
_UNITS = (("s", 1e9), ("ms", 1e6), ("µs", 1e3))


@dataclass(frozen=True, slots=True)
class Row:
    """One span in the tree; `guide` holds the branches drawn in front of its name, like `├─ `."""

    span: Span
    depth: int
    guide: str


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


def rows(spans: Sequence[Span]) -> list[Row]:
    """Order spans as a tree, siblings by start; a span whose parent is absent is a root."""
    known = {(span.trace_id, span.span_id) for span in spans}
    children: dict[tuple[str, str], list[Span]] = defaultdict(list)
    for span in sorted(spans, key=lambda span: span.start):
        parent = (span.trace_id, span.parent_id)
        children[parent if parent in known else ("", "")].append(span)

    placed: list[Row] = []
    # We keep a stack, since traces can be deeper than Python's recursion. The second field is
    # what is drawn to the left of the row's children.
    waiting = [(Row(span, 0, ""), "") for span in reversed(children.pop(("", ""), []))]
    while waiting or children:
        if not waiting:  # only circles are left: spans that name each other as parent
            waiting = [(Row(span, 0, ""), "") for span in children.pop(next(iter(children)))]
        row, indent = waiting.pop()
        placed.append(row)
        below = children.pop((row.span.trace_id, row.span.span_id), [])
        for span in reversed(below):
            branch, trunk = ("└─ ", "   ") if span is below[-1] else ("├─ ", "│  ")
            waiting.append((Row(span, row.depth + 1, indent + branch), indent + trunk))
    return placed


def services(spans: Sequence[Span]) -> list[str]:
    """List the services in order of their first spans."""
    return list(dict.fromkeys(span.service for span in sorted(spans, key=lambda span: span.start)))


def coloured(spans: Sequence[Span]) -> dict[str, str]:
    """Return the colour of each service."""
    return dict(zip(services(spans), COLOURS * len(spans), strict=False))


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


def facts(span: Span) -> Iterable[tuple[str, str]]:
    """Yield everything else that is known about a span, as names and values."""
    if span.status_message:
        yield "status", span.status_message
    yield from _texts(span.attributes)
    for event in span.events:
        yield f"event {event.name}", f"after {duration(event.time - span.start)}"
        yield from _texts(event.attributes)
    for link in span.links:
        yield "link", f"trace {link.trace_id} span {link.span_id}"
        yield from _texts(link.attributes)
    yield "span", span.span_id
    yield "parent", span.parent_id or "none"
    yield "trace", span.trace_id
    yield "scope", f"{span.scope} {span.scope_version}"


def _texts(attributes: Mapping[str, object]) -> Iterable[tuple[str, str]]:
    for name, value in sorted(attributes.items()):
        yield name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def summary(spans: Sequence[Span]) -> list[str]:
    """Say how much was drawn: spans, services, time, and the trace if there is only one."""
    traces = list(dict.fromkeys(span.trace_id for span in spans))
    said = [counted(len(spans), "span"), counted(len(services(spans)), "service")]
    said.append(duration(Axis.of(spans).length))
    return [*said, f"trace {traces[0]}" if len(traces) == 1 else counted(len(traces), "trace")]


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    """Replace what could be a control sequence for a terminal, since names come from outside."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
