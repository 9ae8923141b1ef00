"""Spans in a notebook: captured, read from a view, shown as text and HTML, and in a real kernel."""

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest
from opentelemetry import trace

from otel_queue_bridge import notebook
from otel_queue_bridge.notebook.draw import ROWS
from otel_queue_bridge.notebook.spans import tasks_of
from otel_queue_bridge.otlp import Event, Link, Receiver, Span, read_spans
from otel_queue_bridge.testing.processes import BIN
from otel_queue_bridge.view import Queues, Server, Store
from tests.otlp_spans import Made, spans, task, trace_id
from tests.servers import LIMIT, Processes, absent, free_port

EXAMPLE = Path(__file__).parents[1] / "examples" / "notebook"
ORDER = (
    Made("POST /order", span=1, end=40),
    task("submit", 2, 1, start=10, end=20),
    task("dispatch", 3, 2, start=40, end=45),
    task("execute", 4, 3, start=50, end=100, status="success", wait=0.04),
    Made("save", span=5, parent=4, service="worker", start=60, end=80, error=True),
)


def made(*some: Made) -> list[Span]:
    return list(read_spans(spans(*some, began=1_790_000_000)))


# Drawn

TREE = """\
POST /order            ████████████▊                     40 ms  web
└─ submit send            ███▍                           10 ms  web
   └─ dispatch send                ██▍                    5 ms  worker
      └─ execute send     ░░░░░░░░░░░░░████████████████  50 ms  worker  waited 40 ms
         └─ save                          ██████▋        20 ms  worker  ERROR"""


class Html(HTMLParser):
    """What a cell shows: tags, their attributes, the rows of a table, and what a click shows."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str | None]] = set()
        self.rows: list[list[str]] = []
        self.facts = ""
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.tags.add(tag)
        self.attributes.update(attrs)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self._open in ("small", "br"):
            self.facts += f"{data}\n"
        elif self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def shown(drawn: object) -> list[list[str]]:
    """Return the rows of a table in HTML, as text."""
    return Html(drawn._repr_html_()).rows


def test_spans_are_a_waterfall_in_text() -> None:
    assert repr(notebook.Spans(made(*ORDER))) == TREE


def test_spans_are_the_same_waterfall_in_html_even_where_all_attributes_are_taken_away() -> None:
    # The text of a bar, which styles replace, is all that some code hosts leave.
    rows = shown(notebook.Spans(made(*ORDER)))
    # Python takes a no-break space for a space.
    assert [" ".join(row).split() for row in rows] == [line.split() for line in TREE.splitlines()]


HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>\x1b[2J\u202e`|"


def test_hostile_text_is_shown_and_does_nothing() -> None:
    (plain,) = made(Made("x", error=True))
    texts = dict.fromkeys(
        ("name", "kind", "span_id", "service", "status_message", "scope", "scope_version"), HOSTILE
    )
    bad = {HOSTILE: HOSTILE, "error.type": HOSTILE, "list": [HOSTILE], "messaging.system": HOSTILE}
    bad |= {"messaging.operation.name": "submit", "task.name": HOSTILE, "task.wait": 1e300}
    hostile = replace(
        plain,
        **texts,
        attributes=bad,
        events=(Event(HOSTILE, plain.start, bad),),
        links=(Link(HOSTILE, HOSTILE, bad),),
    )
    for found in (notebook.Spans([hostile]), notebook.Spans([hostile]).queues()):
        html = Html(found._repr_html_())
        assert html.tags <= {
            *("table", "thead", "tbody", "tr", "td", "th", "p", "br", "small", "b", "div"),
            *("details", "summary", "code", "span"),
        }
        for name, value in html.attributes:
            assert name in ("style", "width")
            assert re.fullmatch(r"[\w:;.%# -]*", value)
        assert "<script>alert" in str(html.rows)
        assert ("list: [" in html.facts) == isinstance(found, notebook.Spans)
        text = repr(found)
        assert "<script>alert" in text
        assert not set(text + found._repr_html_()) & {"\x1b", "\u202e"}


@pytest.mark.parametrize(
    "strange",
    [
        [],
        made(Made("ends early", start=9, end=1)),
        made(Made("egg", span=1, parent=2), Made("hen", span=2, parent=1)),
        made(Made("still", start=5, end=5), Made("last", span=2, start=5, end=5)),
    ],
    ids=["none", "backwards", "circle", "instant"],
)
def test_strange_spans_are_drawn(strange: list[Span]) -> None:
    found = notebook.Spans(strange)
    assert len(repr(found).splitlines()) == max(len(strange), 1)
    assert len(shown(found)) == len(strange)
    widths = re.findall(r"width:([\d.-]+)%", found._repr_html_())
    assert all(0 <= float(width) <= 100 for width in widths)


def test_a_large_trace_leaves_the_notebook_small() -> None:
    many = made(*(Made(f"{number}", span=number + 1) for number in range(ROWS + 100)))
    found = notebook.Spans(many)
    assert repr(found).splitlines()[-1] == "… and 100 spans more"
    assert len(shown(found)) == ROWS
    assert "… and 100 spans more" in found._repr_html_()
    long = made(Made("x" * 10_000, attributes={"long": "y" * 10_000}))
    assert len(repr(notebook.Spans(long))) < 200
    assert "y" * 301 not in notebook.Spans(long)._repr_html_()


# Counted

RUNS = (
    task("submit", 1),
    task("execute", 2, 1, status="retry", attempt=1, wait=0.1, end=20),
    task("submit", 3, 2, attempt=2),
    task("execute", 4, 3, status="success", attempt=2, wait=0.1, end=20),
    task("submit", 5, task_id="t2"),
    task("execute", 6, 5, task_id="t2", status="failure", wait=0.1, end=20),
    task("submit", 7, task_id="t3", task="pack", queue="slow"),
)


def test_the_queues_are_a_table() -> None:
    table = notebook.Spans(made(*RUNS)).queues()
    send, pack = table
    counts = ("submitted", "finished", "failed", "retried")
    assert [send[name] for name in counts] == [2, 2, 1, 1]
    assert [pack[name] for name in ("queue", "task", *counts)] == ["slow", "pack", 1, 0, 0, 0]
    assert send["wait_p50_s"] == pytest.approx(0.1, rel=0.05)
    assert send["run_p95_s"] == pytest.approx(0.02, rel=0.05)
    head = "system queue task submitted finished failed retried"
    quantiles = ["wait p50", "wait p95", "run p50", "run p95"]
    assert shown(table)[0] == [*head.split(), *quantiles]
    assert shown(table)[2] == ["celery", "slow", "pack", "1", "0", "0", "0", *"----"]
    assert [line.split() for line in repr(table).splitlines()[2:]] == [shown(table)[2]]


def test_the_queues_know_no_window() -> None:
    old = [replace(one, start=one.start - 10**16, end=one.end - 10**16) for one in made(*RUNS[4:6])]
    (row,) = notebook.Spans([*old, *made(*RUNS[:4])]).queues()
    assert row["finished"] == 2


def test_both_become_data_frames() -> None:
    found = notebook.Spans(made(*ORDER))
    frame = found.to_dataframe()
    assert list(frame["name"]) == [one.name for one in ORDER]
    assert str(frame["start"].dt.tz) == "UTC"
    (execute,) = frame[frame["step"] == "execute"].to_dict("records")
    assert (execute["duration_s"], execute["wait_s"]) == (pytest.approx(0.05), 0.04)
    assert (execute["task_id"], execute["task_status"]) == ("t1", "success")
    assert list(found.queues().to_dataframe()["task"]) == ["send"]
    assert list(notebook.Spans().queues().to_dataframe().columns)[:2] == ["system", "queue"]


def test_without_pandas_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(notebook.NotebookError, match="pip install pandas"):
        notebook.Spans(made(*ORDER)).to_dataframe()


@pytest.mark.parametrize(
    ("more", "pending"),
    [
        ([], {"t1": "send"}),
        ([task("dispatch", 2, 1)], {"t1": "send"}),
        ([task("execute", 2, 1, status="retry")], {"t1": "send"}),
        ([task("execute", 2, 1, status="success")], {}),
        ([task("execute", 2, 1, status="failure")], {}),
        ([task("execute", 2, trace=2, status="success")], {}),
        ([task("dispatch", 2, 1, status="cancelled")], {}),
        ([task("execute", 2, trace=2, status="success", task_id="", links=((1, 1),))], {}),
        ([task("submit", 2, task_id="t2", error=True)], {"t1": "send"}),
    ],
    ids=["sent", "taken", "retried", "done", "failed", "linked", "revoked", "batch", "unsent"],
)
def test_what_has_not_finished_is_known(more: list[Made], pending: dict[str, str]) -> None:
    assert tasks_of(made(task("submit", 1), *more)) == ({"t1": "send"}, pending)


# Captured

CAPTURES = """
import os, sys
from celery import Celery
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import otel_queue_bridge
from otel_queue_bridge import notebook

otel_queue_bridge.instrument("celery")
app = Celery("shop", broker="memory://")
app.conf.task_always_eager = True

@app.task(name="shop.pack")
def pack(boxes):
    if boxes > 1:
        pack.delay(boxes - 1)

def names(spans):
    return sorted(span.name for span in spans)

CHAIN = ["execute shop.pack"] * 2 + ["submit shop.pack"] * 2

# No provider is set up.
with notebook.capture() as spans:
    early = trace.get_tracer("early")
    pack.delay(2)
    assert len(spans.wait(tasks=2, timeout=0)) == 4
assert names(spans) == CHAIN
assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
pack.delay(2)
assert len(spans) == 4
assert not early.start_span("none").is_recording()
with notebook.capture() as again, notebook.capture() as inner:
    pack.delay(1)
assert len(again) == len(inner) == 2
for tasks in (2, 3):
    try:
        again.wait(tasks=tasks, timeout=1e6)  # it does not take that long
    except TimeoutError as error:
        assert str(error) == f"when the block ended, 1 of {tasks} tasks were submitted", error

# The user sets one up: what got its tracer during a capture follows.
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
early.start_span("early").end()
pack.delay(2)
assert names(exporter.get_finished_spans()) == ["early", *CHAIN]

# It goes on exporting, and its processors are afterwards what they were.
before = provider._active_span_processor._span_processors
exporter.clear()
with notebook.capture() as third:
    pack.delay(2)
    if not (child := os.fork()):
        early.start_span("child").end()
        os._exit(len(third) != 4)
    assert os.waitpid(child, 0)[1] == 0
assert names(third) == names(exporter.get_finished_spans()) == CHAIN
assert provider._active_span_processor._span_processors == before
early.start_span("after").end()
assert len(third) == 4
print(sorted({"IPython", "pandas", "rich", "h2"}.intersection(sys.modules)))
"""


def python(code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_this_process_is_captured_and_all_is_undone() -> None:
    assert python(CAPTURES) == "[]\n"


WORKER = """
from celery import Celery
app = Celery("shop", broker="memory://")
app.conf.task_always_eager = True
@app.task(name="shop.pack")
def pack():
    pass
pack.delay()
"""


def test_what_is_printed_makes_another_process_send_its_spans(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with notebook.capture(listen=True) as found:
        printed = capsys.readouterr().out
        (variables,) = re.findall(r"^export .+$", printed, re.MULTILINE)
        command = f"{variables}\n{BIN / 'opentelemetry-instrument'} {sys.executable} -c '{WORKER}'"
        subprocess.run(["/bin/sh", "-c", command], check=True, timeout=LIMIT)
        assert [one.name for one in found.wait(timeout=LIMIT)] == [
            "execute shop.pack",
            "submit shop.pack",
        ]
    assert variables == "export " + " ".join("=".join(one) for one in found.environment.items())
    with socket.socket() as gone:
        port = int(found.environment["OTEL_EXPORTER_OTLP_ENDPOINT"].rpartition(":")[2])
        assert gone.connect_ex(("127.0.0.1", port))


def test_waiting_in_vain_says_why() -> None:
    with notebook.capture() as found:
        with pytest.raises(TimeoutError, match=r"^after 0 s, 0 of 3 tasks .*instrument\(\)"):
            found.wait(tasks=3, timeout=0)
        attributes = {"messaging.operation.name": "submit", "messaging.message.id": "t1"}
        trace.get_tracer("shop").start_span("submit pack", attributes=attributes).end()
        with pytest.raises(TimeoutError, match=r"1 have not .*: submit pack t1; .*listen=True"):
            found.wait(timeout=0)


def test_what_cannot_be_captured_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for wrong in (port, 99_999):
            with (
                pytest.raises(notebook.NotebookError, match=f"listen on port {wrong}"),
                notebook.capture(listen=True, port=wrong),
            ):
                pass
    monkeypatch.setenv("OTEL_SDK_DISABLED", "True")
    with pytest.raises(notebook.NotebookError, match="unset it"), notebook.capture():
        pass
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", trace.NoOpTracerProvider())
    with (
        pytest.raises(notebook.NotebookError, match="NoOpTracerProvider, takes no span"),
        notebook.capture(),
    ):
        pass


@pytest.mark.parametrize("module", ["opentelemetry.proto", "opentelemetry.sdk"])
def test_a_missing_package_is_named(module: str) -> None:
    said = python(
        f"import sys; sys.modules[{module!r}] = None\n"
        "try:\n    from otel_queue_bridge import notebook\n"
        "except ModuleNotFoundError as error:\n    print(error)"
    )
    package = module.replace(".", "-")
    assert said == (
        f"otel_queue_bridge.notebook needs the package {package}:"
        " pip install 'otel-queue-bridge[notebook]'\n"
    )


# Read from a view


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(Store(Queues()), port=0) as server:
        yield server


def connected(server: Server) -> notebook.View:
    return notebook.connect(f"127.0.0.1:{server.port}")


def test_a_view_gives_the_newest_trace_or_that_of_a_task(server: Server) -> None:
    server.store.add(spans(*ORDER, Made("GET /", trace=2, start=500, end=510)))
    view = connected(server)
    assert [one.name for one in view.trace()] == ["GET /"]
    found = view.trace(task_id="t1")
    assert repr(found) == TREE
    assert [one.name for one in view.trace(trace_id(2))] == ["GET /"]
    assert [one["name"] for one in view.traces()] == ["GET /", "POST /order"]
    assert shown(view)[1][:3] == ["GET /", "web", "10 ms"]
    assert repr(view) == repr(view.traces())
    (row,) = view.queues()
    assert (row["task"], row["submitted"], row["finished"], row["failed"]) == ("send", 1, 1, 0)
    assert row["run_p50_s"] == pytest.approx(0.05, rel=0.05)


def test_a_task_in_two_traces_is_one_answer(server: Server) -> None:
    linked = task("execute", 2, trace=2, status="success", links=((1, 1),))
    server.store.add(spans(task("submit", 1), linked))
    assert {one.name for one in connected(server).trace(task_id="t1")} == {
        "submit send",
        "execute send",
    }


def test_a_view_waits_until_a_task_has_finished(server: Server) -> None:
    view = connected(server)
    server.store.add(spans(task("submit", 1)))
    assert len(view.trace(task_id="t1")) == 1
    later = threading.Timer(0.3, server.store.add, [spans(task("execute", 2, 1, status="success"))])
    later.start()
    assert len(view.trace(task_id="t1", timeout=LIMIT)) == 2
    later.join()


def test_an_unknown_trace_is_one_clear_error(server: Server) -> None:
    view = connected(server)
    with pytest.raises(notebook.NotebookError, match=r"holds no trace yet"):
        view.trace()
    with pytest.raises(notebook.NotebookError, match=r"holds no trace of 'a/\.\.&b\\n' yet"):
        view.trace(task_id="a/..&b\n")
    with pytest.raises(notebook.NotebookError, match="not both"):
        view.trace("1", task_id="2")


def test_an_address_without_a_view_is_one_clear_error() -> None:
    with pytest.raises(
        notebook.NotebookError, match=r"nothing answers at .*otel-queue-bridge view"
    ):
        notebook.connect(f"127.0.0.1:{free_port()}")
    with pytest.raises(notebook.NotebookError, match=r"nothing answers at \[::1\]:\d+ \("):
        notebook.connect(f"[::1]:{free_port()}")
    with Receiver() as receiver, pytest.raises(notebook.NotebookError, match="is no `otel-queue"):
        notebook.connect(receiver.endpoint)


@pytest.mark.parametrize(
    "answer",
    [b"SSH-2.0\r\n", b"", *(b"HTTP/1.1 200 OK\r\n\r\n" + body for body in (b"<p>", b"[]", b"{}"))],
)
def test_what_is_no_view_is_one_clear_error(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def serve() -> None:
            client, _ = other.accept()
            with client:
                client.recv(1000)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(notebook.NotebookError, match="is no `otel-queue-bridge view`"):
            notebook.connect(f"127.0.0.1:{other.getsockname()[1]}")
        thread.join()


@pytest.mark.parametrize(
    "address",
    [
        *("", ":4318", "127.0.0.1:http", "127.0.0.1:99999", "[::1", "a b:1"),
        *("https://127.0.0.1:4318", "http://127.0.0.1:4318/api", "http://me:s3cret@127.0.0.1:4318"),
    ],
)
def test_a_bad_address_is_one_clear_error(address: str) -> None:
    with pytest.raises(notebook.NotebookError, match=r"connect\(\) takes HOST:PORT") as raised:
        notebook.connect(address)
    assert "s3cret" not in str(raised.value)


# In a kernel


def executed(processes: Processes, folder: Path) -> list[dict]:
    """Run the example as `jupyter execute` does; return what its cells show."""
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    env = {
        name: str(folder / "home")
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")
    }
    command = [str(BIN / "jupyter-execute"), "--inplace", "trace.ipynb"]
    process = processes.start("notebook", command, cwd=folder, env=env)
    assert process.wait() == 0, process.log()
    cells = json.loads((folder / "trace.ipynb").read_text())["cells"]
    return [
        output["data"]
        for cell in cells
        for output in cell.get("outputs", ())
        if output["output_type"] == "execute_result"
    ]


def tree(data: dict) -> list[tuple[str, ...]]:
    """Return name, service and error of each row, if text and HTML agree."""
    lines = "".join(data["text/plain"]).splitlines()
    row = r"(\W*[\w./ ]*\w) +[░▏▎▍▌▋▊▉█]+ +[\d.]+ (?:ms|µs|s)  (\w+)(?:.*(ERROR.*))?"
    rows = [re.match(row, line).groups("") for line in lines]
    html = Html("".join(data["text/html"])).rows
    for (name, service, error), cells in zip(rows, html, strict=True):
        assert cells[0].replace("\xa0", " ") == name
        assert cells[3] == service
        assert error in cells[4]
    return rows


def test_the_example_shows_its_traces_in_a_kernel(processes: Processes, tmp_path: Path) -> None:
    if not find_spec("nbclient"):
        absent("nbclient")
    captured, whole, failed, queues, services = executed(processes, tmp_path / "example")
    assert tree(captured) == [
        ("checkout", "notebook", ""),
        ("└─ submit shop.invoice", "notebook", ""),
    ]
    chain = [
        ("   └─ dispatch shop.invoice", "worker", ""),
        ("      └─ execute shop.invoice", "worker", ""),
        ("         ├─ pandas.compute", "worker", ""),
        ("         └─ submit shop.pack", "worker", ""),
        ("            └─ dispatch shop.pack", "worker", ""),
        ("               └─ execute shop.pack", "worker", ""),
    ]
    assert tree(whole) == [*tree(captured), *chain]
    wrong = [(name[3:], service, error) for name, service, error in chain]
    wrong[-1] = (*wrong[-1][:2], "ERROR ValueError")
    assert tree(failed) == [("submit shop.invoice", "notebook", ""), *wrong]
    table = Html("".join(queues["text/html"])).rows
    assert [row[:7] for row in table[1:]] == [
        ["celery", "celery", "shop.invoice", "2", "2", "0", "0"],
        ["celery", "celery", "shop.pack", "2", "2", "1", "0"],
    ]
    assert services["text/plain"] == ["['notebook', 'worker']"]


def test_the_example_is_committed_without_outputs() -> None:
    cells = json.loads((EXAMPLE / "trace.ipynb").read_text())["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
