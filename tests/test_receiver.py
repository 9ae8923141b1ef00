from __future__ import annotations

import gzip
import json
import socket
import threading
import zlib
from contextlib import closing
from http.client import HTTPConnection, RemoteDisconnected
from typing import TYPE_CHECKING

import pytest
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.proto.trace.v1.trace_pb2 import Status as StatusMessage
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from otel_queue_bridge.otlp import Receiver, to_otlp_json
from tests.servers import LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from opentelemetry.trace import Tracer

RESOURCE = Resource({"service.name": "shop", "replica": 3})


@pytest.fixture
def tracer(receiver: Receiver) -> Iterator[Tracer]:
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(f"{receiver.endpoint}/v1/traces", compression=Compression.Gzip)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider.get_tracer("tests", "1.2", "https://example.org/schema")
    provider.shutdown()


def address(receiver: Receiver) -> tuple[str, int]:
    return "127.0.0.1", int(receiver.endpoint.rpartition(":")[2])


def post(
    receiver: Receiver, path: str, body: bytes = b"", encoding: str = "identity"
) -> tuple[int, bytes]:
    with closing(HTTPConnection(*address(receiver), timeout=LIMIT)) as connection:
        connection.request("POST", path, body, {"Content-Encoding": encoding})
        response = connection.getresponse()
        return response.status, response.read()


def test_a_span_arrives_whole(receiver: Receiver, tracer: Tracer) -> None:
    with tracer.start_as_current_span("first") as first:
        pass
    with (
        tracer.start_as_current_span("parent", kind=SpanKind.SERVER) as parent,
        tracer.start_as_current_span(
            "child",
            kind=SpanKind.PRODUCER,
            attributes={"text": "é", "number": 1, "ratio": 0.5, "flag": True, "list": ["a", "b"]},
            links=[Link(first.get_span_context(), {"why": "before"})],
        ) as child,
    ):
        child.add_event("noted", {"step": 2})
        child.set_status(Status(StatusCode.ERROR, "broken"))

    spans = {span.name: span for span in receiver.wait_for(lambda spans: len(spans) == 3, 10)}

    assert [spans[name].kind for name in ("first", "parent", "child")] == [
        "INTERNAL",
        "SERVER",
        "PRODUCER",
    ]
    got = spans["child"]
    assert got.trace_id == spans["parent"].trace_id == f"{child.get_span_context().trace_id:032x}"
    assert got.span_id == f"{child.get_span_context().span_id:016x}"
    assert got.parent_id == spans["parent"].span_id == f"{parent.get_span_context().span_id:016x}"
    assert spans["parent"].parent_id == ""
    assert spans["parent"].start <= got.start <= got.end <= spans["parent"].end
    assert got.attributes == {
        "text": "é",
        "number": 1,
        "ratio": 0.5,
        "flag": True,
        "list": ["a", "b"],
    }
    assert [(event.name, event.attributes) for event in got.events] == [("noted", {"step": 2})]
    assert [(link.span_id, link.attributes) for link in got.links] == [
        (spans["first"].span_id, {"why": "before"})
    ]
    assert (got.status, got.status_message) == ("ERROR", "broken")
    assert spans["first"].status == "UNSET"
    assert (got.service, got.resource["replica"]) == ("shop", 3)
    assert (got.scope, got.scope_version) == ("tests", "1.2")
    assert got.schema_url == "https://example.org/schema"


def test_metrics_of_every_kind(receiver: Receiver) -> None:
    exporter = OTLPMetricExporter(f"{receiver.endpoint}/v1/metrics")
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf"))
    provider = MeterProvider([reader], RESOURCE, shutdown_on_exit=False)
    meter = provider.get_meter("tests")
    counter = meter.create_counter("sent", "{task}", "how many")
    active = meter.create_up_down_counter("active")
    duration = meter.create_histogram(
        "duration", "s", explicit_bucket_boundaries_advisory=[1.0, 5.0]
    )

    def depth(_: CallbackOptions) -> Iterator[Observation]:
        yield Observation(7, {"queue": "mail"})

    meter.create_observable_gauge("depth", [depth])
    counter.add(1, {"queue": "mail"})
    active.add(-2)
    duration.record(0.5)
    duration.record(3)
    provider.force_flush()
    counter.add(4, {"queue": "mail"})
    provider.force_flush()
    provider.shutdown()

    assert [point.value for point in receiver.points() if point.metric == "sent"] == [1, 5]
    points = {point.metric: point for point in receiver.latest()}
    assert set(points) == {"sent", "active", "duration", "depth"}
    sent = points["sent"]
    assert (sent.kind, sent.value, sent.unit, sent.description) == ("sum", 5, "{task}", "how many")
    assert (sent.monotonic, sent.temporality) == (True, "CUMULATIVE")
    assert (sent.attributes, sent.service, sent.scope) == ({"queue": "mail"}, "shop", "tests")
    assert 0 < sent.start < sent.time
    assert (points["active"].value, points["active"].monotonic) == (-2, False)
    assert (points["depth"].kind, points["depth"].value) == ("gauge", 7)
    assert (points["duration"].kind, points["duration"].unit) == ("histogram", "s")
    assert (points["duration"].count, points["duration"].sum) == (2, 3.5)
    assert points["duration"].bucket_counts == (1, 1, 0)
    assert points["duration"].bounds == (1.0, 5.0)


def test_otlp_json_has_hex_ids_and_integer_enums(receiver: Receiver, tracer: Tracer) -> None:
    with tracer.start_as_current_span("parent") as parent:
        link = Link(parent.get_span_context())
        with tracer.start_as_current_span("child", kind=SpanKind.CONSUMER, links=[link]):
            pass
    spans = receiver.wait_for(lambda spans: len(spans) == 2, 10)

    document = json.loads(to_otlp_json(receiver.trace_request()))

    written = [
        span
        for group in document["resourceSpans"]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    ]
    for span, entry in zip(spans, written, strict=True):
        assert (entry["traceId"], entry["spanId"]) == (span.trace_id, span.span_id)
        assert entry.get("parentSpanId", "") == span.parent_id
        assert entry["startTimeUnixNano"] == str(span.start)
    assert written[0]["kind"] == 5
    assert written[0]["links"][0]["spanId"] == spans[1].span_id


def test_the_response_is_the_service_s_own(receiver: Receiver) -> None:
    for signal in ("traces", "metrics", "logs"):
        status, body = post(receiver, f"/v1/{signal}")
        assert (status, ExportTraceServiceResponse.FromString(body).ByteSize()) == (200, 0)
    assert len(receiver.requests) == 3


def test_raw_is_what_was_said_uncompressed(receiver: Receiver, tracer: Tracer) -> None:
    with tracer.start_as_current_span("hush", attributes={"key": "a secret"}):
        pass
    assert b"a secret" in receiver.raw()
    receiver.clear()
    assert (receiver.raw(), receiver.spans(), receiver.requests) == (b"", [], [])


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"no protobuf", "identity"),
        (b"no gzip", "gzip"),
        (gzip.compress(b"cut off", mtime=0)[:-4], "gzip"),  # the bytes name the test
        (b"\x1f\x8b\x08" + bytes(7) + b"bad deflate", "gzip"),
    ],
)
def test_what_is_not_otlp_is_refused_and_remembered(
    receiver: Receiver, body: bytes, encoding: str
) -> None:
    status, answer = post(receiver, "/v1/traces", body, encoding)
    reason = StatusMessage.FromString(answer).message
    assert status == 400
    assert reason
    assert receiver.rejected == [f"/v1/traces: {reason}"]


@pytest.mark.parametrize(
    ("compress", "encoding"),
    [(bytes, "identity"), (gzip.compress, "gzip"), (zlib.compress, "deflate")],
)
def test_json_is_answered_with_json(
    receiver: Receiver, compress: Callable[[bytes], bytes], encoding: str
) -> None:
    kind = "application/json; charset=utf-8"
    span = b'{"traceId": "5b8efff798038103d269b633813fc60c", "name": "one"}'
    body = b'{"resourceSpans": [{"scopeSpans": [{"spans": [%b]}]}]}' % span
    headers = {"Content-Type": kind, "Content-Encoding": encoding}
    with closing(HTTPConnection(*address(receiver), timeout=LIMIT)) as connection:
        connection.request("POST", "/v1/traces", compress(body), headers)
        response = connection.getresponse()
        assert (response.status, json.load(response)) == (200, {})
        assert response.headers["Content-Type"] == "application/json"
        connection.request("POST", "/v1/traces", compress(body[1:]), headers)
        response = connection.getresponse()
        assert response.status == 400
        assert json.load(response) == {"message": "the body is not JSON at character 15"}
    assert [span.name for span in receiver.spans()] == ["one"]
    assert receiver.spans()[0].trace_id == "5b8efff798038103d269b633813fc60c"
    assert body in receiver.raw()


def test_chunks_are_joined_as_compressing_exporters_send_them(
    receiver: Receiver, tracer: Tracer
) -> None:
    with tracer.start_as_current_span("one"):
        pass
    body = gzip.compress(receiver.trace_request().SerializeToString())
    chunks = [body[at : at + 40] for at in range(0, len(body), 40)]
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/x-protobuf"}
    with closing(HTTPConnection(*address(receiver), timeout=LIMIT)) as connection:
        for _ in range(2):
            connection.request("POST", "/v1/traces", iter(chunks), headers, encode_chunked=True)
            assert connection.getresponse().read() == b""
    assert [span.name for span in receiver.spans()] == ["one"] * 3


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ("Content-Length: -1", "the length of the body is not a number"),
        ("Content-Length: 1e3", "the length of the body is not a number"),
        ("Content-Length: 99999999999", "the body is too large"),
        ("Transfer-Encoding: gzip", "the transfer encoding is not chunked"),
        ("Transfer-Encoding: chunked", "the length of the body is not a number"),
    ],
)
def test_a_body_without_a_sound_length_ends_the_connection(
    receiver: Receiver, headers: str, reason: str
) -> None:
    request = f"POST /v1/logs HTTP/1.1\r\n{headers}\r\n\r\n\r\n"
    with socket.create_connection(address(receiver), timeout=LIMIT) as connection:
        connection.sendall(request.encode())
        with connection.makefile("rb") as answer:
            assert answer.readline().split()[1] == b"400"
            assert reason.encode() in answer.read()
    assert receiver.rejected == [f"/v1/logs: {reason}"]


def test_what_is_not_http_is_remembered(receiver: Receiver) -> None:
    with socket.create_connection(address(receiver), timeout=LIMIT) as connection:
        connection.sendall(b"torn from elsewhere\r\n\r\n")
        while connection.recv(1024):
            pass
    assert len(receiver.rejected) == 1


def test_an_unknown_path_is_not_found(receiver: Receiver) -> None:
    assert post(receiver, "/v2/traces") == (404, b"")


def test_respond_refuses_first_and_keeps_only_what_it_accepted() -> None:
    answers = iter([503, 200])
    with Receiver(respond=lambda _: next(answers)) as receiver:
        assert post(receiver, "/v1/traces")[0] == 503
        assert receiver.requests == []
        assert post(receiver, "/v1/traces")[0] == 200
        assert len(receiver.requests) == 1


def test_hang_ends_with_the_receiver() -> None:
    failures: list[BaseException] = []
    with Receiver(hang=True) as receiver:
        connection = HTTPConnection(*address(receiver))
        connection.request("POST", "/v1/traces")

        def read() -> None:
            try:
                connection.getresponse()
            except OSError as failure:
                failures.append(failure)

        client = threading.Thread(target=read)
        client.start()
    client.join(timeout=LIMIT)
    connection.close()
    assert [type(failure) for failure in failures] in ([RemoteDisconnected], [ConnectionResetError])


def test_waiting_in_vain_tells_what_did_arrive(receiver: Receiver, tracer: Tracer) -> None:
    with pytest.raises(TimeoutError, match="no span arrived"):
        receiver.wait_for(bool, timeout=0)
    with tracer.start_as_current_span("alone"):
        pass
    with pytest.raises(TimeoutError, match=r"1 spans arrived:\n  shop: alone \(INTERNAL, UNSET\)"):
        receiver.wait_for(lambda spans: len(spans) > 1, timeout=0)


def test_a_closed_receiver_leaves_no_thread_and_frees_its_port() -> None:
    before = set(threading.enumerate())  # some of which, others' may end meanwhile
    with Receiver() as first:
        _, port = address(first)
        idle = HTTPConnection("127.0.0.1", port, timeout=LIMIT)
        idle.request("POST", "/v1/traces")
        assert idle.getresponse().read() == b""
    assert set(threading.enumerate()) <= before
    idle.close()
    with Receiver(port=port) as second:
        assert post(second, "/v1/traces")[0] == 200
