from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from otel_queue_bridge.cli.tree import trace_tree
from otel_queue_bridge.cli.waterfall import waterfall
from otel_queue_bridge.layout import duration, rows
from otel_queue_bridge.otlp import Event, Link, Span

if TYPE_CHECKING:
    from collections.abc import Sequence

BEGIN = 1_790_000_000_000_000_000


def span(
    name: str,
    parent: str = "",
    *,
    start: float = 0,
    end: float = 100,
    service: str = "shop",
    **attributes: object,
) -> Span:
    """Make a span whose id is its name, from `start` to `end` in ms."""
    return Span(
        name=name,
        kind="INTERNAL",
        trace_id="4bf92f3577b34da6a3ce929d0e0e4736",
        span_id=name,
        parent_id=parent,
        start=BEGIN + int(start * 1e6),
        end=BEGIN + int(end * 1e6),
        attributes={name.replace("_", "."): value for name, value in attributes.items()},
        events=(),
        links=(),
        status="ERROR" if "error_type" in attributes else "UNSET",
        status_message="",
        service=service,
        resource={"service.name": service},
        scope="tests",
        scope_version="1",
        schema_url="",
    )


ORDER = [
    span("execute", "submit", start=60, end=140, service="worker", task_wait=0.043),
    span("submit", "POST", start=10, end=20),
    span("POST", end=50),
    span("save", "execute", start=110, end=130, service="worker", error_type="OSError"),
    span("load", "execute", start=70, end=80, service="worker"),
]


def printed(spans: Sequence[Span], width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(trace_tree(spans))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class Page(HTMLParser):
    """The page as a browser sees it: its tags with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if attributes.get("class") == name]


def test_children_stand_below_their_parent_by_start() -> None:
    assert [(row.guide, row.span.name) for row in rows(ORDER)] == [
        ("", "POST"),
        ("└─ ", "submit"),
        ("   └─ ", "execute"),
        ("      ├─ ", "load"),
        ("      └─ ", "save"),
    ]


def test_a_branch_runs_past_the_children_of_an_elder_sibling() -> None:
    family = [span("a"), span("b", "a"), span("c", "b"), span("d", "a", start=1)]
    assert [row.guide for row in rows(family)] == ["", "├─ ", "│  └─ ", "└─ "]


@pytest.mark.parametrize(
    "spans",
    [
        [span("orphan", "never arrived"), *ORDER],
        [span("egg", "hen"), span("hen", "egg"), *ORDER],
        [span("self", "self")],
        [span("twice"), span("twice"), span("child", "twice")],
        [span("0"), *(span(str(i + 1), str(i)) for i in range(3000))],
    ],
    ids=["orphan", "circle", "own parent", "repeated", "deep"],
)
def test_no_span_is_dropped_or_drawn_twice(spans: list[Span]) -> None:
    assert sorted(row.span.name for row in rows(spans)) == sorted(span.name for span in spans)


def test_an_orphan_is_a_root() -> None:
    assert rows([span("orphan", "never arrived")])[0].depth == 0
    assert "orphan" in printed([span("orphan", "never arrived")])


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (-5, "0 µs"),
        (0, "0"),
        (812_300, "812 µs"),
        (4_312_000, "4.31 ms"),
        (43_000_000, "43 ms"),
        (1_244_900_000, "1.24 s"),
        (125_400_000_000, "125 s"),
        (4_321_000_000_000, "4320 s"),
    ],
)
def test_durations_have_three_digits(nanoseconds: float, text: str) -> None:
    assert duration(nanoseconds) == text


def test_the_tree_tells_time_service_wait_and_error() -> None:
    post, _, execute, _, save = printed(ORDER).splitlines()
    assert re.search(r"^POST .*█.* 50 ms  shop", post)
    assert re.search(r"execute .*█.* 80 ms  worker  waited 43 ms", execute)
    assert save.rstrip().endswith("ERROR OSError")


def test_bars_share_one_axis() -> None:
    first, second = printed([span("early", end=50), span("later", start=50)], 60).splitlines()
    assert first.rindex("█") < second.index("█")


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_tree_fits_its_terminal(width: int) -> None:
    assert max(map(len, printed(ORDER, width).splitlines())) <= width


def test_the_tree_neither_obeys_markup_nor_escape_sequences() -> None:
    text = printed([span("[red]a[/red] \x1b[2J\x9b2J", service="\x1b]0;title\x07")])
    assert "[red]a[/red]" in text
    assert not set(text) & {"\x1b", "\x9b", "\x07"}


def test_the_page_names_everything() -> None:
    page = Page(waterfall(ORDER))
    text = " ".join(page.text)
    assert "5 spans · 2 services · 140 ms · trace 4bf92f3577b34da6a3ce929d0e0e4736" in text
    for expected in ("POST", "worker", "internal · worker", "waited 43 ms", "ERROR OSError"):
        assert expected in text
    assert len(page.of_class("bar")) == 4
    assert len(page.of_class("bar failed")) == 1
    assert page.of_class("wait") == [{"class": "wait", "style": "--from:12.14%;--width:30.71%"}]


def test_no_bar_leaves_its_track() -> None:
    strange = [
        *ORDER,
        span("ends before it starts", start=140, end=3),
        span("still", task_wait=9e9),
    ]
    for _, attributes in Page(waterfall(strange)).tags:
        numbers = re.findall(r"--(?:from|width):(-?[\d.]+)%", attributes.get("style") or "")
        assert all(float(number) >= 0 for number in numbers)
        assert sum(map(float, numbers)) <= 100.01


HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


def test_the_page_escapes_whatever_came_from_outside() -> None:
    hostile = Span(
        name=HOSTILE,
        kind=HOSTILE,
        trace_id=HOSTILE,
        span_id=HOSTILE,
        parent_id=HOSTILE,
        start=BEGIN,
        end=BEGIN,
        attributes={
            HOSTILE: HOSTILE,
            "list": [HOSTILE],
            "error.type": HOSTILE,
            "task.wait": HOSTILE,
        },
        events=(Event(HOSTILE, BEGIN, {HOSTILE: HOSTILE}),),
        links=(Link(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}),),
        status="ERROR",
        status_message=HOSTILE,
        service=HOSTILE,
        resource={HOSTILE: HOSTILE},
        scope=HOSTILE,
        scope_version=HOSTILE,
        schema_url=HOSTILE,
    )
    page = Page(waterfall([hostile]))
    assert not {tag for tag, _ in page.tags} & {"script", "img"}
    assert {tag: attributes for tag, attributes in page.tags if "onerror" in attributes} == {}
    assert HOSTILE in "".join(page.text)


def test_the_page_refers_to_nothing_outside() -> None:
    html = waterfall(ORDER)
    assert not re.search(r"https?:|//|url\(|@import|<link|<script|\b(src|href)=", html)
    assert "default-src 'none'" in html
    assert len(html) < 12_000


def test_no_spans_is_said() -> None:
    assert "no spans" in printed([])
    assert "No spans" in " ".join(Page(waterfall([])).text)


def test_several_traces_are_counted() -> None:
    html = waterfall([span("a"), replace(span("b"), trace_id="f" * 32)])
    assert "2 spans · 1 service · 100 ms · 2 traces" in html
