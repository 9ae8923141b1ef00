"""Draw a trace in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from otel_queue_bridge.layout import Axis, duration, printable, remarks, rows, services

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_queue_bridge.otlp import Span

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue")
_SHORTEST = 0.02
"""The shortest bar, as a share of the axis; a shorter one could not be seen."""


def trace_tree(spans: Sequence[Span]) -> Table:
    """Draw spans as an indented tree with bars on one time axis, for `rich` to print."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), expand=True)
    if not spans:
        table.add_row("no spans")
        return table
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, min_width=10)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column()
    axis = Axis.of(spans)
    colours = dict(zip(services(spans), _COLOURS * len(spans), strict=False))
    for row in rows(spans):
        span, colour = row.span, colours[row.span.service]
        begin = min(axis.position(span.start), 1 - _SHORTEST)
        table.add_row(
            Text.assemble((row.guide, "dim"), printable(span.name)),
            Bar(1, begin, max(axis.position(span.end), begin + _SHORTEST), color=colour),
            duration(span.end - span.start),
            Text(printable(span.service), colour),
            Text(printable(", ".join(remarks(span))), "red" if span.status == "ERROR" else "dim"),
        )
    return table
