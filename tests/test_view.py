"""`otel-queue-bridge view`, as a process."""

import json
import re
import signal
import socket
import sys
from collections.abc import Callable
from http.client import HTTPConnection
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from rich.console import Console

from otel_queue_bridge.cli import main
from otel_queue_bridge.cli.live import picture
from otel_queue_bridge.view import Queues, Store
from tests.otlp_spans import Made, spans, task, trace_id
from tests.servers import Process, Processes

COMMAND = [sys.executable, "-m", "otel_queue_bridge", "view"]
Start = Callable[..., Process]


@pytest.fixture
def start(processes: Processes) -> Start:
    def start(*arguments: object) -> Process:
        command = [*COMMAND, "--port", "0", "--grpc-port", "0", *map(str, arguments)]
        return processes.start("view", command, ready="http://127.0.0.1:")

    return start


def address(view: Process, which: int = 0) -> str:
    return re.findall(r"http://[\d.]+:\d+", view.log())[which]


def ask(view: Process, path: str) -> Any:
    connection = HTTPConnection(address(view).removeprefix("http://"))
    connection.request("GET", path)
    found = json.loads(connection.getresponse().read())
    connection.close()
    return found


def export(exporter: Any) -> None:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.get_tracer("test").start_span("hello").end()
    provider.shutdown()


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_it_takes_what_the_sdk_exports(start: Start, protocol: str) -> None:
    view = start()
    if protocol == "http":
        export(HttpExporter(f"{address(view)}/v1/traces"))
    else:
        export(GrpcExporter(address(view, 1), insecure=True))
    assert [row["name"] for row in ask(view, "/api/traces")["traces"]] == ["hello"]
    assert view.stop(signal.SIGTERM) == 0


def test_a_saved_run_is_shown_again(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    view = start("--save", file)
    export(HttpExporter(f"{address(view)}/v1/traces"))
    rows = ask(view, "/api/traces")["traces"]
    assert view.stop(signal.SIGINT) == 0
    shown = start(file)
    assert [row["trace_id"] for row in ask(shown, "/api/traces")["traces"]] == [
        row["trace_id"] for row in rows
    ]
    assert ask(shown, "/api/status")["file"] == str(file)


def test_one_trace_of_the_api_can_be_shown_again(start: Start, tmp_path: Path) -> None:
    view = start()
    export(HttpExporter(f"{address(view)}/v1/traces"))
    (row,) = ask(view, "/api/traces")["traces"]
    file = tmp_path / "trace.json"
    file.write_text(json.dumps(ask(view, f"/api/traces/{row['trace_id']}"), indent=2))
    assert ask(start(file), "/api/traces")["traces"][0]["name"] == "hello"


def test_a_saved_run_that_was_cut_off_is_shown(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    view = start("--save", file)
    for _ in range(2):
        export(HttpExporter(f"{address(view)}/v1/traces"))
    assert view.stop(signal.SIGTERM) == 0
    file.write_text(file.read_text()[:-40])
    assert len(ask(start(file), "/api/traces")["traces"]) == 1


@pytest.mark.parametrize("option", ["--port", "--grpc-port"])
def test_a_taken_port_is_one_sentence(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    others = {"--port": "0", "--grpc-port": "0"}
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = str(holder.getsockname()[1])
        given = others | {option: port}
        assert main(["view", *(word for pair in given.items() for word in pair)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"port {port} is taken by" in line
    (other,) = re.findall(rf"choose another one with {option} (\d+),", line)
    assert other != port


def test_another_view_is_called_by_its_name(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    port = address(start()).rpartition(":")[2]
    assert main(["view", "--port", port, "--grpc-port", "0"]) == 1
    assert "another `otel-queue-bridge view`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--port", "x"], "--port: invalid port"),
        (["--grpc-port", "70000"], "--grpc-port: invalid port"),
        (["nowhere.jsonl"], "cannot read nowhere.jsonl: No such file"),
        (["{junk}"], "line 2: it is not JSON"),
        (["{junk}", "--save", "x"], "not both"),
        (["--save", "/nowhere/x"], "cannot write /nowhere/x"),
    ],
)
def test_bad_arguments_are_one_clear_error(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    junk = tmp_path / "junk"
    junk.write_text('{"resourceSpans": []}\nno json\n{"resourceSpans": []}\n')
    try:
        code = main(["view", "--port", "0", *(one.format(junk=junk) for one in arguments)])
    except SystemExit as ended:
        code = ended.code
    assert code in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_terminal_shows_the_list_and_a_tree() -> None:
    store = Store(Queues())
    console = Console(width=100, file=StringIO())
    store.add(
        spans(
            Made("POST /x\x1b[2J"),
            task("submit", 2, 1),
            task("dispatch", 3, 2),
            task("execute", 4, 3, status="failure", error=True, wait=0.25),
        )
    )
    console.print(picture(store))
    text = console.file.getvalue()
    assert re.search(r"POST /x\S+ +web +1 ms +4 +1 +ERROR, waited 250 ms", text)
    assert "└─ execute send" in text
    assert "\x1b" not in text
    assert store.request(trace_id(1))
