"""Draw a trace as one self-contained HTML page."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from otel_queue_bridge.layout import (
    Axis,
    Row,
    coloured,
    duration,
    facts,
    remarks,
    rows,
    summary,
    waited,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from otel_queue_bridge.otlp import Span

_STYLE = """
:root { --paper: #fff; --ink: #1b1f27; --faint: #667085; --line: #e6e8ec; --hover: #f5f6f8;
        --error: #d1293d }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171c; --ink: #e7e9ee; --faint: #98a2b3; --line: #2a2f38; --hover: #1c2027;
          --error: #ff6b78 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 2rem clamp(.75rem, 3vw, 2.5rem); max-width: 78rem;
       background: var(--paper); color: var(--ink);
       font: 14px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
h1 { margin: 0; font-size: 1.6rem; font-weight: 650; overflow-wrap: anywhere }
header p, .note, .axis { color: var(--faint) }
header p { margin: .25rem 0 1.25rem; overflow-wrap: anywhere }
ul { display: flex; flex-wrap: wrap; gap: .3rem 1.25rem; margin: 0 0 1.5rem; padding: 0;
     list-style: none }
li::before, .name::before { content: ""; display: inline-block; width: .6rem; height: .6rem;
     margin-right: .5rem; border-radius: 2px; background: var(--colour) }
details { border-top: 1px solid var(--line) }
details:last-child { border-bottom: 1px solid var(--line) }
summary, .axis { display: grid; align-items: center; gap: 0 1rem;
     grid-template: "name track time" auto / minmax(15rem, 2fr) 3fr 4.5rem }
summary { padding: .55rem .25rem; cursor: pointer; list-style: none }
summary::-webkit-details-marker { display: none }
summary:hover { background: var(--hover) }
.axis { padding: 0 .25rem .3rem; font-size: .8rem }
.label { grid-area: name; min-width: 0; padding-left: calc(min(var(--depth), 12) * 1.15rem) }
.name { font-weight: 600; overflow-wrap: anywhere }
.note { padding-left: 1.1rem; font-size: .82rem; overflow-wrap: anywhere }
.error { color: var(--error); font-weight: 600 }
.track { grid-area: track; position: relative; align-self: stretch; min-height: 1.4rem;
     overflow: hidden; background: repeating-linear-gradient(to right, var(--line) 0 1px,
     transparent 1px var(--tick)) }
.axis .track { background: none }
.track > * { position: absolute; left: var(--from) }
.axis .track > * { padding-left: .3rem; border-left: 1px solid var(--line); white-space: nowrap }
.bar, .wait { top: calc(50% - .45rem); height: .9rem; border-radius: 3px;
     width: max(var(--width), 3px); background: var(--colour) }
.wait { background: repeating-linear-gradient(-45deg, var(--colour) 0 2px, transparent 2px 6px);
     opacity: .55 }
.failed { box-shadow: inset 0 0 0 2px var(--error) }
.time { grid-area: time; text-align: right; white-space: nowrap;
     font-variant-numeric: tabular-nums }
dl { display: grid; grid-template-columns: minmax(8rem, auto) 1fr; gap: .15rem 1rem; margin: 0;
     padding: .25rem .25rem 1rem 1.4rem; font: .8rem/1.5 ui-monospace, Consolas, monospace }
dt { color: var(--faint) }
dd { margin: 0 }
dt, dd { overflow-wrap: anywhere }
@media (max-width: 44rem) {
  summary, .axis { grid-template: "name time" auto "track track" auto / 1fr auto }
  .label { padding-left: calc(min(var(--depth), 12) * .6rem) }
}
"""


def waterfall(spans: Sequence[Span]) -> str:
    """Draw spans as a page of HTML: bars on one time axis, details on a click.

    All text from outside is escaped, and the page is not allowed to load anything.
    """
    axis = Axis.of(spans)
    colours = coloured(spans)
    drawn = rows(spans)
    title = drawn[0].span.name if drawn else "No spans"
    legend = (
        f'<li style="--colour:{colour}">{escape(service or "unnamed")}</li>'
        for service, colour in colours.items()
    )
    tick = _tick(axis.length)
    ticks = (
        f'<span style="--from:{_percent(time / axis.length)}">{duration(time)}</span>'
        for time in range(0, int(axis.length * 0.9), tick)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body style="--tick:{_percent(tick / axis.length)}">
<header>
<h1>{escape(title)}</h1>
<p>{" · ".join(map(escape, summary([row.span for row in drawn])))}</p>
<ul>{"".join(legend)}</ul>
</header>
<main>
<div class="axis"><div class="track">{"".join(ticks)}</div></div>
{"".join(_row(row, axis, colours[row.span.service]) for row in drawn)}</main>
</body>
</html>
"""


def _row(row: Row, axis: Axis, colour: str) -> str:
    span = row.span
    notes = " · ".join(map(escape, filter(None, [span.kind.lower(), span.service])))
    for remark in remarks(span):
        mark = ' class="error"' if remark.startswith("ERROR") else ""
        notes += f" · <span{mark}>{escape(remark)}</span>"
    bars = _bar("bar failed" if span.status == "ERROR" else "bar", axis, span.start, span.end)
    if wait := waited(span):
        bars = _bar("wait", axis, span.start - wait, span.start) + bars
    said = "".join(f"<dt>{escape(name)}<dd>{escape(value)}" for name, value in facts(span))
    return f"""<details style="--depth:{row.depth};--colour:{colour}">
<summary><div class="label"><div class="name">{escape(span.name)}</div>
<div class="note">{notes}</div></div>
<div class="track">{bars}</div>
<div class="time">{duration(span.end - span.start)}</div></summary>
<dl>{said}</dl>
</details>
"""


def _bar(kind: str, axis: Axis, start: float, end: float) -> str:
    # Stay off the right edge, where even the narrowest bar would be cut off.
    begin = min(axis.position(start), 0.995)
    width = max(axis.position(end) - begin, 0)
    return f'<div class="{kind}" style="--from:{_percent(begin)};--width:{_percent(width)}"></div>'


def _tick(length: int) -> int:
    """Choose 1, 2 or 5 of a decimal unit so that about five ticks fit into `length`."""
    unit = 10.0 ** math.floor(math.log10(length / 5))
    return math.ceil(next(unit * step for step in (1, 2, 5, 10) if unit * step >= length / 5))


def _percent(share: float) -> str:
    return f"{share * 100:.2f}%"
