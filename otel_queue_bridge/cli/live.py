"""Draw in the terminal what arrives: the newest traces, and the one that changed last as a tree."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from otel_queue_bridge.cli.tree import trace_tree
from otel_queue_bridge.layout import duration, printable
from otel_queue_bridge.otlp import read_spans

if TYPE_CHECKING:
    from rich.console import RenderableType

    from otel_queue_bridge.view import Store

_ROWS = 12
_REFRESH = 0.5
"""Seconds between two pictures."""


def show(store: Store, console: Console | None = None) -> None:
    """Draw until Ctrl-C."""
    seen = -1
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            if store.sequence != seen:
                seen = store.sequence
                live.update(picture(store), refresh=True)
            with store.changed:
                store.changed.wait_for(lambda: store.sequence != seen, _REFRESH)  # noqa: B023


def picture(store: Store) -> RenderableType:
    rows, _ = store.rows(lambda *_: True, limit=_ROWS)
    if not rows:
        return Text("Nothing has arrived yet.", "dim")
    table = Table(box=None, padding=(0, 2, 0, 0), expand=True)
    table.add_column("trace", no_wrap=True, ratio=2, header_style="dim")
    table.add_column("service", no_wrap=True, ratio=1, header_style="dim")
    for name, width in (("took", 8), ("spans", 5), ("tasks", 5)):
        table.add_column(name, justify="right", min_width=width, header_style="dim")
    table.add_column(no_wrap=True, ratio=2)
    for row in rows:
        took, counted = duration(row["duration_ms"] * 1e6), (str(row["spans"]), str(row["tasks"]))
        style = "red" if row["errors"] else ""
        name, service = printable(row["name"]), printable(row["service"])
        table.add_row(name, service, took, *counted, _remarks(row), style=style)
    latest = max(rows, key=lambda row: int(row["sequence"]))
    request = store.request(latest["trace_id"])
    tree = trace_tree(list(read_spans(request))) if request else Text("")
    return Group(table, Rule(style="dim"), tree)


def _remarks(row: dict[str, Any]) -> str:
    found = [printable(row["error"])] if row["error"] else []
    if row["retries"]:
        found.append("1 retry" if row["retries"] == 1 else f"{row['retries']} retries")
    if row["wait_ms"]:
        found.append(f"waited {duration(row['wait_ms'] * 1e6)}")
    if row["pending"]:
        found.append(f"{row['pending']} not dispatched yet")
    return ", ".join(found)
