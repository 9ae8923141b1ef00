"""The page of `view`, in a real browser: what somebody sees and does."""

from __future__ import annotations

import sys
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.keys import Keys

from otel_queue_bridge.view import Queues, Server, Store
from tests import browser
from tests.browser import Page
from tests.otlp_spans import Made, attribute, log, metric, span_id, spans, task, trace_id
from tests.servers import Processes, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from selenium.webdriver import Remote

ROWS = ".traces .name"
DONE = {"status": "success", "attempt": 1, "wait": 0.284}


@pytest.fixture(scope="module")
def driver(servers: Processes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    driver = browser.start(servers, tmp_path_factory.mktemp("browser"))
    yield driver
    driver.quit()


@pytest.fixture
def store() -> Store:
    return Store(Queues(), traces=4)


@pytest.fixture
def page(driver: Remote, store: Store) -> Iterator[Page]:
    """The page; whatever a test does there, the console stays empty and nobody else is asked."""
    with Server(store, port=0) as server:
        page = Page(driver, server.port)
        yield page
        driver.get("about:blank")
        assert page.complaints() == []


def request(*, trace: int = 1, name: str = "POST /orders") -> ExportTraceServiceRequest:
    """One web request, whose task waits 284 ms and runs 100 ms."""
    return spans(
        Made(name, trace, 1, end=30),
        task("submit", 2, 1, trace=trace, start=10, end=16, task_id=f"t{trace}"),
        task("dispatch", 3, 2, trace=trace, start=292, end=294, task_id=f"t{trace}"),
        task("execute", 4, 3, trace=trace, start=294, end=394, task_id=f"t{trace}", **DONE),
    )


def failing() -> ExportTraceServiceRequest:
    """Three attempts of one task: each fails, and the last for good."""
    made = [Made("POST /pay", span=1, end=30)]
    for attempt, status in enumerate(("retry", "retry", "failure"), 1):
        at, first = attempt * 200, attempt * 3
        made += [
            task(
                *("submit", first, first - 1 if attempt > 1 else 1),
                start=at,
                end=at + 2,
                attempt=attempt,
            ),
            task("dispatch", first + 1, first, start=at + 20, end=at + 21, attempt=attempt),
            task(
                *("execute", first + 2, first + 1),
                start=at + 21,
                end=at + 80,
                attempt=attempt,
                wait=0.021,
                status=status,
                error=True,
            ),
        ]
    sent = spans(*made)
    for group in sent.resource_spans:
        (span,) = group.scope_spans[0].spans
        if span.status.code == 2:
            attribute(span, "error.type", "shop.CardDeclined")
            event = span.events.add(name="exception", time_unix_nano=span.end_time_unix_nano)
            attribute(event, "exception.type", "shop.CardDeclined")
            attribute(event, "exception.message", "no <b>funds</b>")
            attribute(event, "exception.stacktrace", 'Traceback:\n  File "shop.py"\nCardDeclined')
    return sent


def test_the_empty_page_is_the_help_and_the_first_trace_appears_by_itself(page: Page) -> None:
    page.open()
    page.sees("Waiting for the first trace")
    blocks = page.texts(".copyable pre")
    for service in ("shop-web", "shop-worker"):
        (block,) = [one for one in blocks if f"OTEL_SERVICE_NAME={service}\n" in one]
        assert f"OTEL_EXPORTER_OTLP_ENDPOINT={page.url}\n" in block
    page.click(".choice label", "RQ")
    page.sees("opentelemetry-instrument rq worker", ".copyable")

    page.run("window.notReloaded = true")
    page.send(request())
    page.sees("POST /orders", ROWS)
    page.sees("waited 284 ms", ".traces li")
    assert page.run("return window.notReloaded")
    assert page.texts(".help") == []


def test_what_was_refused_is_said_with_the_reason(page: Page, store: Store) -> None:
    page.open()
    page.sees("No request has been refused so far")
    assert page.post(b"nonsense") == 400
    page.sees("1 request refused", "#notices")
    assert store.rejected
    page.sees(store.rejected.reason, "#notices")
    page.sees(store.rejected.reason, ".help")


def test_a_filter_is_kept_in_the_address_and_holds_for_what_arrives(page: Page) -> None:
    page.send(request(trace=1, name="GET /cart"))
    page.send(request(trace=2, name="POST /orders"))
    page.open()
    wait_until(lambda: len(page.texts(ROWS)) == 2)
    page.tab_to("[name=text]")
    page.press("orders")
    wait_until(lambda: page.texts(ROWS) == ["POST /orders"])
    wait_until(lambda: page.driver.current_url.endswith("#/?text=orders"))

    page.send(request(trace=3, name="GET /cart"))
    page.send(request(trace=4, name="PUT /orders"))
    wait_until(lambda: sorted(page.texts(ROWS)) == ["POST /orders", "PUT /orders"])

    page.open("/?id=t3")
    wait_until(lambda: page.texts(ROWS) == ["GET /cart"])
    page.open("/?task=send&status=error")
    page.sees("No trace matches")
    page.click("a", "Show all traces")
    wait_until(lambda: len(page.texts(ROWS)) == 4)


def test_a_filter_that_makes_no_sense_is_refused_with_the_reason(page: Page) -> None:
    page.send(request())
    page.open("/?min_ms=1.5")
    page.sees("min_ms has to be a whole number", ".note")
    page.sees("live", "#status")
    (complaint,) = page.complaints()  # the browser's, of the status 400
    assert "400" in complaint
    page.open()
    page.sees("POST /orders", ROWS)


def test_the_navigation_says_where_one_is(page: Page) -> None:
    page.open()
    for name in ("Queues", "Traces", "Queues"):
        page.click("nav a", name)
        wait_until(lambda name=name: page.texts("nav [aria-current]") == [name])


def test_a_paused_list_says_how_many_are_new(page: Page) -> None:
    page.send(request(trace=1))
    page.open()
    page.sees("POST /orders", ROWS)
    page.click(".pause")
    page.send(request(trace=2, name="GET /new"))
    page.sees("Resume · 1 new", ".pause")
    assert page.texts(ROWS) == ["POST /orders"]
    page.click(".pause")
    page.sees("GET /new", ROWS)


def test_forty_tasks_are_forty_rows_that_fit_the_eye(page: Page) -> None:
    made = [Made("POST /orders", span=1, end=500)]
    for number in range(40):
        at, first, task_id = number * 10, 10 + number * 3, f"t{number}"
        made += [
            task("submit", first, 1, start=at, end=at + 2, task_id=task_id),
            task("dispatch", first + 1, first, start=at + 99, end=at + 100, task_id=task_id),
            task("execute", first + 2, first + 1, start=at + 100, end=at + 150, task_id=task_id)
            if number == 39
            else task(
                *("execute", first + 2, first + 1),
                **{"start": at + 100, "end": at + 150, "task_id": task_id, **DONE},
            ),
        ]
    page.send(spans(*made))
    page.open(f"/trace/{trace_id(1)}")
    wait_until(lambda: page.texts(".row .name") == ["POST /orders", *["send"] * 40])
    heights = page.run("return [...document.querySelectorAll('.row')].map(r => r.offsetHeight)")
    assert max(heights) <= 24
    segments = page.run(
        "return [...document.querySelectorAll('.row')[1].querySelectorAll('.segment')]"
        ".map(one => one.className)"
    )
    assert segments == [f"segment {kind}" for kind in ("submit", "dispatch", "wait", "execute")]

    width = "return document.querySelector('.segment').getBoundingClientRect().width"
    before = page.run(width)
    page.click("[aria-label='Zoom out']")
    assert page.run(width) == pytest.approx(before, abs=1)
    page.click("[aria-label='Zoom in']")
    page.click(".tools button", "Reset")
    assert page.run(width) == pytest.approx(before, abs=1)
    page.click(".row .fold")
    wait_until(lambda: page.texts(".row .name") == ["POST /orders"])


def test_a_retry_chain_that_failed_is_one_row_that_says_so(page: Page) -> None:
    page.send(failing())
    page.open()
    page.sees("CardDeclined", ".traces .failed")
    page.sees("2 retries", ".traces .failed")
    page.click(".traces a")
    wait_until(lambda: page.texts(".row .name") == ["POST /pay", "send"])
    marks = page.texts(".row.failed .mark")
    assert marks[:4] == [
        "attempt 1 · retry",
        "attempt 2 · retry",
        "attempt 3 · failure",
        "CardDeclined: no <b>funds</b>",
    ]
    assert "waited 21 ms" in marks

    page.click(".row.failed .toggle")
    assert len(page.texts(".details .card")) == 9
    assert page.texts(".details pre")[0].splitlines() == [
        "Traceback:",
        '  File "shop.py"',
        "CardDeclined",
    ]
    page.send(log("declined at the bank", span=5), "/v1/logs")
    page.sees("declined at the bank", ".details .log")  # and the row has stayed open


def test_a_link_leads_there_and_back(page: Page) -> None:
    page.send(request(trace=1))
    batch = task("execute", 9, trace=2, task="archive", links=((1, 4), (7, 7)), **DONE)
    page.send(spans(batch))
    page.open(f"/trace/{trace_id(2)}")
    page.sees("a trace not held here", ".row")
    page.click(".row a.link", "POST /orders")
    page.sees("POST /orders", "h1")
    assert page.driver.current_url.endswith(f"/trace/{trace_id(1)}?span={span_id(4)}")
    page.sees("send", ".row.wanted .name")
    page.click(".row.wanted a.link", "execute archive")
    page.sees("execute archive", "h1")
    assert f"/trace/{trace_id(2)}" in page.driver.current_url


def test_what_is_missing_is_said_until_it_arrives(page: Page) -> None:
    page.send(
        spans(Made("POST /orders", end=30, parent=99), task("submit", 2, 1, start=10, end=16))
    )
    page.open()
    page.sees("1 not taken yet", ".traces")
    page.click(".traces a")
    page.sees("nothing has dispatched it", ".row .pending")
    page.sees("its parent ", ".row .pending")
    page.send(
        spans(
            task("dispatch", 3, 2, start=20, end=21),
            task("execute", 4, 3, start=21, end=50, **DONE),
            Made("proxy", span=99, end=60),
        )
    )
    wait_until(lambda: page.texts(".row .name") == ["proxy", "POST /orders", "send"])
    assert page.texts(".row .pending") == []
    assert page.texts(".row .mark")[0] == "success"


def test_a_task_has_its_name_in_every_vocabulary(page: Page) -> None:
    sent = request()
    for group in sent.resource_spans[1:]:
        group.scope_spans[0].spans[0].name = "celery.worker.dispatch"
    page.send(sent)
    page.open(f"/trace/{trace_id(1)}")
    wait_until(lambda: page.texts(".row .name") == ["POST /orders", "send"])


def test_a_trace_that_is_not_held_is_shown_once_it_arrives(page: Page) -> None:
    page.open(f"/trace/{trace_id(1)}")
    page.sees("This trace is not held", "h1")
    page.send(request())
    page.sees("POST /orders", ".row .name")
    (said,) = page.complaints()
    assert "404" in said


def test_all_of_it_can_be_done_with_the_keyboard(page: Page) -> None:
    page.send(request())
    page.open()
    page.sees("POST /orders", ROWS)
    page.tab_to(".traces a")
    page.press(Keys.ENTER)
    page.sees("send", ".row .name")
    page.tab_to(".row .toggle")
    page.press(Keys.ARROW_DOWN)
    page.press(Keys.ENTER)
    assert page.run("return document.activeElement.getAttribute('aria-expanded')") == "true"
    page.sees("task.wait", ".details dt")
    page.press(Keys.ARROW_UP, Keys.ARROW_LEFT)
    wait_until(lambda: page.texts(".row .name") == ["POST /orders"])
    page.press(Keys.ARROW_RIGHT)
    wait_until(lambda: page.texts(".row .name") == ["POST /orders", "send"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", ["/", f"/trace/{trace_id(1)}", "/queues", "/?text=none"])
def test_nothing_sticks_out_of_a_narrow_window(page: Page, place: str, scheme: str) -> None:
    page.look(400, 800, scheme)
    page.send(failing())
    page.send(request(trace=2, name=f"GET /{'long' * 40}"))
    page.post(b"nonsense")
    page.open(place)
    page.sees({"/": "GET /long", "/?text=none": "No trace matches"}.get(place, "send"), "main")
    if "trace" in place or "queues" in place:
        page.click("main .toggle", "send")
        wait_until(lambda: page.texts(".card, .plots"))
    assert page.run("return document.documentElement.scrollWidth") <= 400
    assert page.overflows() == []
    paper = page.run("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_queue_table_leads_to_the_failed_trace_first(page: Page) -> None:
    page.open("/queues")
    page.sees("No task has been seen yet")
    page.send(request(trace=2))
    page.send(failing())
    page.sees("celery default", ".queues")
    cells = page.run(
        "return Object.fromEntries([...document.querySelectorAll('.queues td[data-label]')]"
        ".map(one => [one.dataset.label, one.innerText]))"
    )
    assert (cells["failed"], cells["retries"], cells["submitted"]) == ("50 %", "2", "2")
    unknown = ("depth", "oldest", "delayed", "dead", "busy")
    assert {cells[name] for name in unknown} == {"\N{EN DASH}"}
    read = {"workers.active": 4, "workers.busy": 1, "queue.depth": 5, "queue.delayed": 6}
    for name, value in (read | {"queue.dead": 7, "oldest": 8}).items():
        page.send(metric(f"task.{name}", value), "/v1/metrics")
    page.sees("1 of 4", ".queues")
    for value in ("5", "6", "7", "8 s"):
        assert value in page.texts(".queues td[data-label]")
    page.click(".queues .toggle", "send")
    page.sees("at most", ".plots")
    page.click(".samples a", "failed")
    page.sees("POST /pay", "h1")

    page.open("/queues")
    page.click(".queues .toggle", "send")
    page.click(".queues a", "All its traces")
    wait_until(lambda: sorted(page.texts(ROWS)) == ["POST /orders", "POST /pay"])


def test_a_server_that_is_gone_is_missed_and_its_successor_is_heard(
    driver: Remote, processes: Processes
) -> None:
    page = Page(driver, free_port())
    view = [sys.executable, "-m", "otel_queue_bridge", "view", f"--port={page.port}"]
    processes.start("view", [*view, "--grpc-port=0"], ready=page.url)
    page.send(request(name="GET /old"))
    page.open()
    page.sees("GET /old", ROWS)
    processes.stop()
    page.sees("not connected", "#status")
    processes.start("view", [*view, "--grpc-port=0"], ready=page.url)
    page.send(request(name="GET /young"))
    page.sees("GET /young", ROWS)
    page.sees("live", "#status")
    assert page.texts(ROWS) == ["GET /young"]
    driver.get("about:blank")


def test_text_from_outside_is_text(page: Page) -> None:
    name = "<img src=/nothing onerror=alert(1)>"
    page.send(request(name=name))
    page.open()
    page.sees(name, ROWS)
    page.open(f"/trace/{trace_id(1)}")
    page.sees(name, "h1")
    page.sees(name, ".row .name")


def test_what_was_dropped_is_said(page: Page) -> None:
    for number in range(1, 8):
        page.send(request(trace=number))
    page.open()
    page.sees("at most 4 are held: 3 of web", "#notices")


def test_the_page_weighs_little() -> None:
    folder = files("otel_queue_bridge.view") / "page"
    assert sum(len(one.read_bytes()) for one in folder.iterdir()) < 80_000
