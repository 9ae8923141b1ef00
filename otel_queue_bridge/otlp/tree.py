"""Spans as a tree, for all that draws them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_queue_bridge.otlp.records import Span


@dataclass(frozen=True, slots=True)
class Row:
    """One span in the tree; `guide` holds the branches drawn in front of its name, like `├─ `."""

    span: Span
    depth: int
    guide: str


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


def printable(text: str) -> str:
    # A name from outside could hold control sequences for the terminal.
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
