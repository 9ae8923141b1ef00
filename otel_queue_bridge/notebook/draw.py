"""Draw spans and tables as text, and as HTML that survives in a saved notebook.

A notebook that nobody has trusted yet, or that a code host shows, loses scripts, style sheets and
SVG, and on some hosts every `style` attribute. So each bar is text; where styles count, they hide
that text and show a coloured bar in its place. All text from outside is escaped.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from otel_queue_bridge.layout import (
    Axis,
    Row,
    coloured,
    counted,
    duration,
    facts,
    printable,
    remarks,
    rows,
    summary,
    waited,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from otel_queue_bridge.otlp import Span

ROWS = 200
"""The most spans that are drawn: a saved notebook holds them all."""
_WIDTH = 32
_EIGHTHS: tuple[str, ...] = ("", *"▏▎▍▌▋▊▉")
_NAME, _FACT = 60, 300
"""The most characters of a name in text, and of a fact."""
_LEFT = 'style="text-align:left;white-space:nowrap"'


def as_text(spans: Sequence[Span]) -> str:
    """Draw the waterfall in characters."""
    axis, placed = Axis.of(spans), rows(spans)
    lines = []
    for row in placed[:ROWS]:
        name = row.guide + _clean(row.span.name, _NAME)
        took = duration(row.span.end - row.span.start)
        lines.append((name, _bar(row.span, axis), took, row.span.service, _remarks(row.span)))
    widths = [max(map(len, column)) for column in list(zip(*lines, strict=True))[:4]]
    drawn = [
        f"{name:{widths[0]}}  {bar:{_WIDTH}}  {took:>{widths[2]}}"
        f"  {_clean(service):{widths[3]}}  {said}".rstrip()
        for name, bar, took, service, said in lines
    ]
    return "\n".join([*drawn, *_rest(placed)]) or "no spans"


def as_html(spans: Sequence[Span]) -> str:
    """Draw the waterfall as a table; a click on a name shows the span's attributes."""
    axis, placed, colours = Axis.of(spans), rows(spans), coloured(spans)
    if not placed:
        return "<p>no spans</p>"
    drawn = "".join(_row(row, axis, colours[row.span.service]) for row in placed[:ROWS])
    rest = "".join(f"<p>{line}</p>" for line in _rest(placed))
    said = " · ".join(_text(fact) for fact in summary(spans))
    return (
        f"<p><b>{_text(placed[0].span.name)}</b><br><small>{said}</small></p>"
        f'<table style="width:100%"><tbody>{drawn}</tbody></table>{rest}'
    )


def table_as_text(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    cleaned = [list(head), *([_clean(cell, _NAME) for cell in line] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*cleaned, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cleaned
    )


def table_as_html(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    heads = "".join(f"<th {_LEFT}>{_text(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr>{''.join(f'<td {_LEFT}>{_text(cell, _NAME)}</td>' for cell in line)}</tr>"
        for line in lines
    )
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"


def _row(row: Row, axis: Axis, colour: str) -> str:
    span = row.span
    guide = row.guide.replace(" ", "&nbsp;")
    known = "<br>".join(f"{_text(name)}: {_text(value, _FACT)}" for name, value in facts(span))
    error = ' style="color:#d1293d"' if span.status == "ERROR" else ""
    return (
        f"<tr><td {_LEFT}><details><summary><code>{guide}</code>{_text(span.name)}</summary>"
        f'<small style="white-space:normal;overflow-wrap:break-word">{known}</small></details></td>'
        f'<td width="40%">{_coloured_bar(span, axis, colour)}</td>'
        f"<td {_LEFT}>{duration(span.end - span.start)}</td>"
        f'<td {_LEFT}><b style="color:{colour}">{_text(span.service)}</b></td>'
        f"<td {_LEFT}><span{error}>{_text(_remarks(span))}</span></td></tr>\n"
    )


def _coloured_bar(span: Span, axis: Axis, colour: str) -> str:
    begin, end = axis.position(span.start), axis.position(span.end)
    left = axis.position(span.start - waited(span))
    text = _bar(span, axis).replace(" ", "&nbsp;")
    return (
        '<div style="display:flex;overflow:hidden">'
        f'<div style="width:{left:.2%}"></div>'
        f'<div style="width:{begin - left:.2%};height:12px;background-color:{colour};opacity:0.3">'
        f'</div><div style="width:{max(end - begin, 0):.2%};height:12px;min-width:2px;'
        f'background-color:{colour}"></div></div>'
        f'<code style="display:block;height:0;overflow:hidden;font-size:0">{text}</code>'
    )


def _bar(span: Span, axis: Axis) -> str:
    """Return a bar of characters; what a task waited is shaded."""
    begin = min(int(axis.position(span.start) * _WIDTH), _WIDTH - 1)
    left = min(int(axis.position(span.start - waited(span)) * _WIDTH), begin)
    eighths = max(round(axis.position(span.end) * _WIDTH * 8) - begin * 8, 1)
    shaded = " " * left + "░" * (begin - left)
    return shaded + "█" * (eighths // 8) + _EIGHTHS[eighths % 8]


def _rest(placed: Sequence[Row]) -> Iterable[str]:
    if len(placed) > ROWS:
        yield f"… and {counted(len(placed) - ROWS, 'span')} more"


def _remarks(span: Span) -> str:
    return _clean(", ".join(remarks(span)))


def _text(text: str, most: int | None = None) -> str:
    return escape(_clean(text, most))


def _clean(text: str, most: int | None = None) -> str:
    shown = printable(" ↵ ".join(text.splitlines()))
    return shown if most is None or len(shown) <= most else f"{shown[: most - 1]}…"
