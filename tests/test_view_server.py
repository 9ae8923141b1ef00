"""What `view` answers: OTLP, the JSON API, events, the page, and who may ask."""

import gzip
import json
import socket
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from http.client import HTTPConnection
from typing import Any

import pytest

from otel_queue_bridge.otlp import read_spans, to_otlp_json
from otel_queue_bridge.otlp.requests import LIMIT, decode
from otel_queue_bridge.view import Queues, Server, Store
from tests.otlp_spans import Made, attribute, log, metric, spans, task, trace_id
from tests.servers import LIMIT as PATIENCE
from tests.servers import wait_until

PROTOBUF = {"Content-Type": "application/x-protobuf"}
TASK = (
    Made("POST /x", span=1, end=900),
    task("submit", 2, 1, task_id="t1"),
    task("dispatch", 3, 2, task_id="t1"),
    task("execute", 4, 3, task_id="t1", status="failure", error=True),
)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(Store(Queues()), port=0) as server:
        yield server


class Answer:
    def __init__(self, server: Server, method: str, path: str, body: Any = None, **headers: str):
        connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names)
        response = connection.getresponse()
        self.status, self.headers, self.body = response.status, response.headers, response.read()
        connection.close()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def get(server: Server, path: str, **headers: str) -> Answer:
    return Answer(server, "GET", path, **headers)


def post(server: Server, body: Any, path: str = "/v1/traces", **headers: str) -> Answer:
    headers.setdefault("Content_Type", "application/x-protobuf")
    return Answer(server, "POST", path, body, **headers)


def send(server: Server, *made: Made) -> None:
    assert post(server, spans(*made).SerializeToString()).status == 200


@pytest.mark.parametrize(
    ("headers", "write"),
    [
        ({}, lambda request: request.SerializeToString()),
        ({"Content_Encoding": "gzip"}, lambda it: gzip.compress(it.SerializeToString())),
        ({"Content_Encoding": "deflate"}, lambda it: zlib.compress(it.SerializeToString())),
        ({"Content_Type": "application/json"}, lambda it: to_otlp_json(it).encode()),
        ({}, lambda it: iter([it.SerializeToString()[:100], it.SerializeToString()[100:]])),
    ],
    ids=["protobuf", "gzip", "deflate", "JSON", "chunked"],
)
def test_otlp_is_taken_as_senders_write_it(server: Server, headers: dict, write: Any) -> None:
    sent = spans(*TASK)
    assert post(server, write(sent), **headers).status == 200
    found = get(server, f"/api/traces/{trace_id(1)}")
    received = decode("/v1/traces", found.body, content_type="application/json")
    assert list(read_spans(received)) == list(read_spans(sent))


def test_logs_and_metrics_are_taken(server: Server) -> None:
    send(server, *TASK)
    assert post(server, log("hello").SerializeToString(), "/v1/logs").status == 200
    made = metric("task.submitted", 3).SerializeToString()
    assert post(server, made, "/v1/metrics").status == 200
    assert get(server, f"/api/traces/{trace_id(1)}/context").json["logs"][0]["body"] == "hello"
    status = get(server, "/api/status").json
    assert (status["spans"], status["points"], status["logs"]) == (4, 1, 1)
    (row,) = get(server, "/api/queues").json["rows"]
    assert (row["source"], row["submitted"], row["failed_percent"]) == ("metrics", 3, None)


@pytest.mark.parametrize(
    ("path", "body", "headers", "reason"),
    [
        ("/v1/traces", b"junk", {}, "protobuf"),
        ("/v1/traces", b"{", {"Content_Type": "application/json"}, "JSON"),
        ("/v1/traces", b"junk", {"Content_Encoding": "gzip"}, "compressed"),
        ("/v1/nothing", b"", {}, "takes no telemetry"),
        ("/v1/traces", b"x", {"Content_Type": "text/plain"}, "content type"),
        ("/v1/traces", b"", {"Content_Length": str(LIMIT + 1)}, "too large"),
        ("/v1/traces", b"nothing\r\n", {"Transfer_Encoding": "chunked"}, "not a number"),
    ],
)
def test_what_is_refused_is_said_and_disturbs_nothing(
    server: Server, path: str, body: bytes, headers: dict, reason: str
) -> None:
    send(server, *TASK)
    assert post(server, body, path, **headers).status == 400
    rejected = get(server, "/api/status").json["rejected"]
    assert (rejected["count"], rejected["last"]["where"]) == (1, path)
    assert reason in rejected["last"]["reason"]
    send(server, Made("next", trace=2))
    assert len(get(server, "/api/traces").json["traces"]) == 2


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4318", "127.0.0.1.evil.example"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_foreign_name_is_refused(server: Server, method: str, host: str) -> None:
    assert Answer(server, method, "/v1/traces", b"", Host=host, **PROTOBUF).status == 403


@pytest.mark.parametrize("host", ["localhost", "localhost:4318", "127.0.0.1:1", "[::1]:4318"])
def test_our_own_names_are_not(server: Server, host: str) -> None:
    assert get(server, "/api/status", Host=host).status == 200


def test_it_listens_on_loopback_only(server: Server) -> None:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))  # noqa: S104 - the server did not
        assert get(server, "/api/status").json["http"] == f"http://127.0.0.1:{server.port}"
    outside = socket.gethostbyname(socket.gethostname())
    if not outside.startswith("127."):
        with socket.socket() as other:
            assert other.connect_ex((outside, server.port)) != 0


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", 2),
        ("system=celery", 1),
        ("system=rq", 0),
        ("queue=default&task=send", 1),
        ("task=other", 0),
        ("service=worker", 1),
        ("status=failure", 1),
        ("status=error", 1),
        ("status=success", 0),
        ("status=pending", 0),
        ("min_ms=800", 1),
        ("min_ms=1000", 0),
        ("text=post", 1),
        ("text=SEND", 1),
        ("text=nowhere", 0),
        ("id=t1", 1),
        (f"id={trace_id(2)}", 1),
        ("limit=1", 1),
        ("text=", 2),
    ],
)
def test_traces_are_filtered(server: Server, query: str, found: int) -> None:
    send(server, *TASK)
    send(server, Made("plain", trace=2))
    assert len(get(server, f"/api/traces?{query}").json["traces"]) == found


@pytest.mark.parametrize("query", ["min_ms=x", "min_ms=-1", "colour=red", "text=a&text=b"])
def test_a_bad_filter_is_one_clear_error(server: Server, query: str) -> None:
    answer = get(server, f"/api/traces?{query}")
    assert answer.status == 400
    assert query.partition("=")[0] in answer.json["error"]
    assert "\n" not in answer.json["error"]


@pytest.mark.parametrize("path", ["/api/traces/ff", "/api/traces/ff/context", "/api/traces/ff/x"])
def test_a_trace_that_is_not_held_is_not_found(server: Server, path: str) -> None:
    answer = get(server, path)
    assert answer.status == 404
    assert "ff" in answer.json["error"]


class Listener:
    """A client of the events."""

    def __init__(self, server: Server, query: str = "", **headers: str) -> None:
        self._connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        self._connection.request("GET", f"/api/events?{query}", headers=headers)
        self._response = self._connection.getresponse()

    def next(self, kind: str) -> Any:
        """Wait for the next event of this kind."""
        event: dict[str, str] = {}
        while True:
            line = self._response.readline().decode().rstrip("\n")
            if not line and event.get("event") == kind:
                return json.loads(event["data"])
            if not line:
                event = {}
            name, _, value = line.partition(": ")
            event[name] = value

    def close(self) -> None:
        self._response.close()
        self._connection.close()


def test_events_say_what_arrives(server: Server) -> None:
    listener = Listener(server, "task=send")
    assert listener.next("status")["spans"] == 0
    send(server, Made("plain", trace=2))
    send(server, *TASK)
    assert listener.next("trace")["trace_id"] == trace_id(1)
    assert listener.next("status")["spans"] == 5
    listener.close()


@pytest.mark.parametrize("how", ["after", "Last-Event-ID"])
def test_events_go_on_where_a_client_was(server: Server, how: str) -> None:
    send(server, Made("seen", trace=1))
    sequence = get(server, "/api/traces").json["sequence"]
    send(server, Made("missed", trace=2))
    listener = (
        Listener(server, f"after={sequence}")
        if how == "after"
        else Listener(server, **{how: str(sequence)})
    )
    assert listener.next("trace")["name"] == "missed"
    listener.close()


def test_closing_ends_a_connection_that_is_kept_alive() -> None:
    with Server(Store(Queues()), port=0) as server:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        connection.request("GET", "/api/status")
        connection.getresponse().read()
        assert connection.sock
    assert connection.sock.recv(1) == b""
    connection.close()


def test_closing_ends_the_events() -> None:
    with Server(Store(Queues()), port=0) as server:
        listener = Listener(server)
        listener.next("status")
    assert not [one for one in threading.enumerate() if one.name == "view"]
    listener.close()


@pytest.mark.parametrize("path", ["/", "/view.css", "/view.js", "/icon.svg"])
def test_the_page_may_load_nothing_from_elsewhere(server: Server, path: str) -> None:
    answer = get(server, path)
    assert answer.status == 200
    assert answer.headers["Content-Security-Policy"] == "default-src 'self'"
    assert b"https://" not in answer.body


@pytest.mark.parametrize("path", ["/nothing.js", "/../server.py", "/page/view.js", "/view.py"])
def test_no_other_file_is_served(server: Server, path: str) -> None:
    assert get(server, path).status == 404


HOSTILE = [float("nan"), float("inf"), -1.0, 2**63 - 1, -(2**63), "", "\0", True]


@pytest.mark.parametrize("value", HOSTILE, ids=str)
def test_hostile_values_do_no_harm(server: Server, value: Any) -> None:
    names = ("task.wait", "task.attempt", "task.status", "messaging.batch.message_count")
    made = task("execute", 1, status="success")
    send(server, replace(made, attributes=made.attributes | dict.fromkeys(names, value)))
    record = log("hello")
    attribute(record.resource_logs[0].scope_logs[0].log_records[0], "x", value)
    assert post(server, record.SerializeToString(), "/v1/logs").status == 200
    for path in ("/api/traces", "/api/queues", f"/api/traces/{trace_id(1)}/context"):
        assert b"NaN" not in get(server, path).body
        assert b"Infinity" not in get(server, path).body
    send(server, replace(made, trace=2, span=9))
    assert get(server, "/api/queues").json["rows"]


@pytest.mark.parametrize("bound", [float("nan"), float("inf"), -1.0])
def test_hostile_histograms_do_no_harm(server: Server, bound: float) -> None:
    made = metric("task.wait", buckets=(1, 2**62), bounds=(bound,))
    assert post(server, made.SerializeToString(), "/v1/metrics").status == 200
    assert get(server, "/api/queues").json["rows"]


def test_what_cannot_be_taken_in_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.store, "add", lambda _: 1 / 0)
    assert post(server, spans(*TASK).SerializeToString()).status == 500
    last = get(server, "/api/status").json["rejected"]["last"]
    assert last["reason"] == "ZeroDivisionError while it was taken in"


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "speaks gRPC"),
        (b"\x16\x03\x01\x02\x00\x01\n\r\n\r\n", "speaks TLS"),
    ],
)
def test_another_protocol_is_called_by_its_name(server: Server, first: bytes, reason: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(first)
        client.recv(1000)
    wait_until(lambda: server.store.rejected)
    assert reason in server.store.rejected.reason
