"""OTLP over gRPC: what exporters of several languages send, and what must do no harm."""

import gzip
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from unittest.mock import patch
from urllib.parse import unquote

import grpc
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingAckReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes, Settings
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2_grpc import LogsServiceStub
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from typing_extensions import Self

from otel_queue_bridge.otlp import read_points, read_spans
from otel_queue_bridge.otlp.grpc import GrpcServer
from otel_queue_bridge.otlp.requests import Request
from tests.servers import LIMIT, wait_until

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", EXPORT),
    (":authority", "127.0.0.1:4317"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("user-agent", "grpc-go/1.80.0"),
    ("grpc-timeout", "10S"),
]
MIB = 2**20
RST_STREAM = 3  # the type of frame


class Intake:
    """A server, and what it took in."""

    def __init__(self, limit: int = 4 * MIB) -> None:
        self.requests: list[Request] = []
        self.rejected: list[str] = []
        self.accept: Callable[[Request], None] = self.requests.append
        self._server = GrpcServer(self._take, self.rejected.append, port=0, limit=limit)

    def _take(self, request: Request) -> None:
        self.accept(request)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *details: object) -> None:
        self._server.__exit__(None, None, None)

    @property
    def port(self) -> int:
        return self._server.port

    def names(self) -> list[str]:
        return [
            span.name
            for request in self.requests
            if isinstance(request, ExportTraceServiceRequest)
            for span in read_spans(request)
        ]


@pytest.fixture
def intake() -> Iterator[Intake]:
    with Intake() as intake:
        yield intake


class Client:
    """The client's end of one connection, frame by frame."""

    def __init__(self, port: int, settings: dict[SettingCodes, int] | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.http.local_settings = Settings(client=True, initial_values=settings or {})
        self.http.initiate_connection()
        self.events: list[Event] = []
        self.ended = False
        self.frames: list[int] = []
        """The types of the frames that arrived; h2 tells nothing of some."""
        self._raw = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self.socket.close()

    def send(self) -> None:
        self.socket.sendall(self.http.data_to_send())

    def begin(self, headers: list[tuple[str, str]] = HEADERS, *, end: bool = False) -> int:
        stream = self.http.get_next_available_stream_id()
        self.http.send_headers(stream, headers, end_stream=end)
        self.send()
        return stream

    def data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        self.http.send_data(stream, data, end_stream=end)
        self.send()

    def receive(self) -> None:
        data = self.socket.recv(2**16)
        self.ended = not data
        self._raw += data
        while len(self._raw) >= 9 + (length := int.from_bytes(self._raw[:3], "big")):
            self.frames.append(self._raw[3])
            del self._raw[: 9 + length]
        self.events += self.http.receive_data(data)
        self.send()

    def all(self, kind: type[Event], stream: int | None = None) -> list[Event]:
        return [
            event
            for event in self.events
            if isinstance(event, kind) and (stream is None or event.stream_id == stream)
        ]

    def until(self, kind: type[Event], stream: int | None = None) -> Event:
        while not (found := self.all(kind, stream)):
            assert not self.ended, f"the server closed the connection before any {kind}"
            self.receive()
        return found[0]

    def status(self, stream: int) -> tuple[int, str]:
        """The status and message of a call, when it has ended."""
        self.until(StreamEnded, stream)
        (last,) = self.all(TrailersReceived, stream) or self.all(ResponseReceived, stream)
        headers = dict(last.headers)
        return int(headers["grpc-status"]), unquote(headers.get("grpc-message", ""))


@pytest.fixture
def client(intake: Intake) -> Iterator[Client]:
    with Client(intake.port) as client:
        yield client


def traces(name: str = "one") -> bytes:
    group = ResourceSpans(scope_spans=[ScopeSpans(spans=[Span(name=name)])])
    return ExportTraceServiceRequest(resource_spans=[group]).SerializeToString()


def message(body: bytes, *, compressed: bool = False) -> bytes:
    return bytes([compressed]) + len(body).to_bytes(4, "big") + body


# The real exporter, which is gRPC's C core.


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_the_exporter_s_spans_arrive(intake, compression):
    exporter = OTLPSpanExporter(
        f"http://127.0.0.1:{intake.port}", insecure=True, compression=compression
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=5000, max_export_batch_size=2500)
    )
    tracer = provider.get_tracer("tests")
    for number in range(5000):
        tracer.start_span(f"span {number}", attributes={"queue": "mail" * 20}).end()
    assert provider.force_flush()
    provider.shutdown()
    assert intake.names() == [f"span {number}" for number in range(5000)]
    assert intake.rejected == []


def test_metrics_and_logs_arrive(intake):
    exporter = OTLPMetricExporter(f"http://127.0.0.1:{intake.port}", insecure=True)
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=float("inf"))
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter("tests").create_counter("sent").add(3)
    provider.force_flush()
    provider.shutdown()
    with grpc.insecure_channel(f"127.0.0.1:{intake.port}") as channel:
        LogsServiceStub(channel).Export(ExportLogsServiceRequest(), timeout=LIMIT)
    metrics, logs = intake.requests
    assert isinstance(metrics, ExportMetricsServiceRequest)
    assert [point.value for point in read_points(metrics) if point.metric == "sent"] == [3]
    assert isinstance(logs, ExportLogsServiceRequest)


def call(channel: grpc.Channel, body: bytes, path: str = EXPORT, **options: object) -> bytes:
    method = channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
    return method(body, timeout=LIMIT, **options)


@pytest.mark.parametrize(
    ("path", "body", "options", "code", "reason"),
    [
        (
            EXPORT,
            b"a secret",
            {},
            "INVALID_ARGUMENT",
            "gRPC TraceService/Export: the body is not an ExportTraceServiceRequest in protobuf",
        ),
        (
            EXPORT,
            bytes(5 * MIB),
            {},
            "RESOURCE_EXHAUSTED",
            "gRPC TraceService/Export: more than 4 MiB at once",
        ),
        (
            EXPORT,
            bytes(5 * MIB),
            {"compression": grpc.Compression.Gzip},
            "RESOURCE_EXHAUSTED",
            "gRPC TraceService/Export: the body is larger than 4 MiB",
        ),
        (
            EXPORT,
            traces(),
            {"compression": grpc.Compression.Deflate},
            "UNIMPLEMENTED",
            "gRPC TraceService/Export: the encoding is neither gzip nor identity",
        ),
        (
            "/of.tomorrow.SignalService/Export",
            traces(),
            {},
            "UNIMPLEMENTED",
            "gRPC SignalService/Export: there is no such method",
        ),
        ("/<b>", traces(), {}, "UNIMPLEMENTED", "gRPC: there is no such method"),
    ],
)
def test_a_refused_call_disturbs_no_other(intake, path, body, options, code, reason):
    with grpc.insecure_channel(f"127.0.0.1:{intake.port}") as channel:
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as caught:
                call(channel, body, path, **options)
            assert caught.value.code().name == code
            assert caught.value.details() == reason.partition(": ")[2]
            assert call(channel, traces()) == b""
    assert intake.rejected == [reason, reason]
    assert intake.names() == ["one", "one"]


def test_an_accept_that_fails_costs_only_its_call(intake):
    def fail(request):
        raise ValueError("a secret")

    taken, intake.accept = intake.accept, fail
    with grpc.insecure_channel(f"127.0.0.1:{intake.port}") as channel:
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, traces())
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        intake.accept = taken
        call(channel, traces())
    reason = "it could not be taken in (ValueError)"
    assert intake.rejected == [f"gRPC TraceService/Export: {reason}"]
    assert caught.value.details() == reason


def test_many_connections_and_calls_at_once(intake):
    lock = threading.Lock()
    taken = intake.accept

    def accept(request):
        with lock:
            taken(request)

    intake.accept = accept
    options = [("grpc.use_local_subchannel_pool", 1)]
    names = {f"span {number}" for number in range(200)}
    channels = [grpc.insecure_channel(f"127.0.0.1:{intake.port}", options) for _ in range(4)]
    calls = [
        channels[number % 4]
        .unary_unary(EXPORT, request_serializer=bytes, response_deserializer=bytes)
        .future(traces(name), timeout=LIMIT)
        for number, name in enumerate(sorted(names))
    ]
    assert {each.result() for each in calls} == {b""}
    for channel in channels:
        channel.close()
    assert set(intake.names()) == names


# Frames by hand, as the exporters of Go and Java send them.


def test_the_message_and_the_end_in_frames_of_their_own(intake, client):
    stream = client.begin()
    client.data(stream, message(traces()))
    client.data(stream, b"", end=True)
    assert client.status(stream) == (0, "")
    assert dict(client.until(ResponseReceived).headers) == {
        ":status": "200",
        "content-type": "application/grpc",
    }
    assert b"".join(event.data for event in client.all(DataReceived)) == bytes(5)
    assert client.all(StreamReset) == []
    assert intake.names() == ["one"]


@settings(max_examples=30, deadline=None, database=None)
@given(st.lists(st.integers(0, 60), max_size=6), st.booleans(), st.booleans())
def test_a_message_split_anywhere(cuts, compressed, ends_empty):
    body = message(gzip.compress(traces()) if compressed else traces(), compressed=compressed)
    edges = [0, *sorted(min(cut, len(body)) for cut in cuts), len(body)]
    parts = [body[start:end] for start, end in pairwise(edges)] + [b""] * ends_empty
    with Intake() as intake, Client(intake.port) as client:
        stream = client.begin([*HEADERS, ("grpc-encoding", "gzip")])
        for number, part in enumerate(parts, 1):
            client.data(stream, part, end=number == len(parts))
        assert client.status(stream) == (0, "")
        assert intake.names() == ["one"]


def test_interleaved_streams(intake, client):
    bodies = {client.begin(): message(traces(f"span {number}" * 9000)) for number in range(8)}
    step = 16384
    for at in range(0, max(map(len, bodies.values())), step):
        for stream, body in bodies.items():
            part = body[at : at + step]
            while client.http.local_flow_control_window(stream) < len(part):
                client.receive()
            client.data(stream, part, end=at + step >= len(body))
    assert [client.status(stream) for stream in bodies] == [(0, "")] * 8
    assert sorted(intake.names()) == [f"span {number}" * 9000 for number in range(8)]


def test_large_headers_continue_in_frames_of_their_own(intake, client):
    stream = client.begin([*HEADERS, ("x-baggage", "0123456789" * 4000)])
    client.data(stream, message(traces()), end=True)
    assert client.status(stream) == (0, "")


def test_padding_counts_towards_the_window(intake, client):
    stream = client.begin()
    body = message(traces("x" * 42_000))
    for at in range(0, len(body), 10):  # so there is more padding than fits into the window
        while client.http.local_flow_control_window(stream) < 266:
            client.receive()
        end = at + 10 >= len(body)
        client.http.send_data(stream, body[at : at + 10], pad_length=255, end_stream=end)
        client.send()
    assert client.status(stream) == (0, "")


def test_refused_calls_give_their_window_back(intake, client):
    headers = [*HEADERS[:2], (":path", "/of.tomorrow/Export"), *HEADERS[3:]]
    for _ in range(2 * MIB // 16384):
        stream = client.http.get_next_available_stream_id()
        client.http.send_headers(stream, headers)
        while client.http.local_flow_control_window(stream) < 16384:
            client.receive()
        client.http.send_data(stream, bytes(16384), end_stream=True)
        client.send()  # all in one piece
        assert client.status(stream) == (12, "there is no such method")
    assert RST_STREAM not in client.frames  # for there was nothing left to stop


def test_a_ping_is_answered(client):
    client.http.ping(b"01234567")
    client.send()
    assert client.until(PingAckReceived).ping_data == b"01234567"


def test_a_cancelled_call_is_forgotten(intake, client):
    for _ in range(5):  # together they would be over the limit
        stream = client.begin()
        client.data(stream, message(bytes(MIB))[:1000])
        client.http.reset_stream(stream, ErrorCodes.CANCEL)
        client.send()
    stream = client.begin()
    client.data(stream, message(traces()), end=True)
    assert client.status(stream) == (0, "")
    assert intake.rejected == []


def test_a_message_that_will_be_too_large_is_refused_before_it_arrives(intake, client):
    stream = client.begin()
    client.data(stream, message(bytes(5 * MIB))[:5])
    assert client.status(stream) == (8, "more than 4 MiB at once")
    assert client.until(StreamReset, stream).error_code == ErrorCodes.NO_ERROR
    assert len(intake.rejected) == 1


def test_calls_in_their_middle_share_the_limit(intake, client):
    first, second = client.begin(), client.begin()
    client.data(first, message(bytes(3 * MIB))[:5])
    client.data(second, message(bytes(3 * MIB))[:5])
    assert client.status(second) == (8, "more than 4 MiB at once")
    assert client.all(ResponseReceived, first) == []


@pytest.mark.parametrize(
    ("sent", "code", "reason"),
    [
        (b"", 3, "the message is cut off"),
        (b"\0\0\0", 3, "the message is cut off"),
        (message(traces())[:-1], 3, "the message is cut off"),
        (message(traces()) + b"\0", 3, "there is more than one message"),
        (message(traces()) * 2, 3, "there is more than one message"),
        (
            message(gzip.compress(traces(), mtime=0), compressed=True),  # the bytes name the test
            13,
            "the message is compressed, and no header says how",
        ),
    ],
)
def test_a_broken_message_is_refused(intake, client, sent, code, reason):
    stream = client.begin()
    client.data(stream, sent, end=True)
    assert client.status(stream) == (code, reason)
    assert intake.rejected == [f"gRPC TraceService/Export: {reason}"]
    assert intake.requests == []


def test_a_message_that_is_not_compressed_though_others_are(intake, client):
    stream = client.begin([*HEADERS, ("grpc-encoding", "gzip")])
    client.data(stream, message(traces()), end=True)
    assert client.status(stream) == (0, "")


def test_what_is_http_2_and_not_grpc(intake, client):
    headers = [*HEADERS[:4], ("content-type", "application/x-protobuf")]
    stream = client.begin(headers)
    client.data(stream, traces(), end=True)
    client.until(StreamEnded, stream)
    assert dict(client.until(ResponseReceived).headers)[":status"] == "415"
    assert intake.rejected == ["gRPC: what arrived over HTTP/2 is not gRPC"]


# Back-pressure.


def test_while_one_request_is_taken_in_the_client_may_send_a_window_more(intake, client):
    entered, go_on = threading.Event(), threading.Event()
    taken = intake.accept

    def accept(request):
        entered.set()
        assert go_on.wait(LIMIT)
        taken(request)

    intake.accept = accept
    client.http.ping(b"01234567")
    client.send()
    client.until(PingAckReceived)
    first, second = client.begin(), client.begin()
    assert client.http.local_flow_control_window(second) == MIB
    client.data(first, message(traces()), end=True)
    assert entered.wait(LIMIT)
    body = message(traces("x" * 2 * MIB))
    client.data(second, body[:16384])
    client.http.ping(b"76543210")
    client.send()
    assert select.select([client.socket], [], [], 0)[0] == []
    go_on.set()
    assert client.status(first) == (0, "")
    for at in range(16384, len(body), 16384):
        part = body[at : at + 16384]
        while client.http.local_flow_control_window(second) < len(part):
            client.receive()
        client.data(second, part, end=at + 16384 >= len(body))
    assert client.status(second) == (0, "")
    assert [len(name) for name in intake.names()] == [3, 2 * MIB]


def test_answers_wait_for_the_client_s_window(intake):
    with Client(intake.port, {SettingCodes.INITIAL_WINDOW_SIZE: 0}) as client:
        streams = [client.begin() for _ in range(2)]
        for stream in streams:
            client.data(stream, message(traces()), end=True)
            client.until(ResponseReceived, stream)
        client.http.ping(b"01234567")
        client.send()
        client.until(PingAckReceived)
        assert client.all(DataReceived) == []
        for stream in reversed(streams):
            client.http.increment_flow_control_window(5, stream)
            client.send()
            assert client.status(stream) == (0, "")
        assert client.all(StreamReset) == []


# The ends of connections.


def test_closing_says_goodbye_and_leaves_no_thread(monkeypatch):
    monkeypatch.setattr("otel_queue_bridge.otlp.grpc._PATIENCE", 3600.0)
    before = set(threading.enumerate())
    with Intake() as intake:
        client = Client(intake.port)
        stream = client.begin()
        client.data(stream, message(traces()), end=True)
        assert client.status(stream) == (0, "")
        silent = socket.create_connection(("127.0.0.1", intake.port), timeout=LIMIT)
        port = intake.port
    assert set(threading.enumerate()) <= before
    with client, silent:
        assert client.until(ConnectionTerminated).error_code == ErrorCodes.NO_ERROR
    with GrpcServer(print, print, port=port) as again:
        assert again.port == port
    assert intake.rejected == []


def test_closing_does_not_wait_for_a_client_that_goes_on():
    of_tomorrow = b"\0\0\0\xbb\0\0\0\0\0"  # a frame that has no answer

    def chatter():
        with suppress(OSError):
            while True:
                client.socket.sendall(of_tomorrow * 100)

    chatting = threading.Thread(target=chatter)
    with Intake() as intake:
        client = Client(intake.port)
        client.http.ping(b"01234567")
        client.send()
        client.until(PingAckReceived)
        chatting.start()
    with suppress(OSError):  # the server's end is closed; ours may still wait to write
        client.socket.shutdown(socket.SHUT_RDWR)
    chatting.join(LIMIT)
    client.socket.close()
    assert not chatting.is_alive()


def test_a_port_that_is_taken_is_an_oserror(intake):
    with pytest.raises(OSError, match="in use"), GrpcServer(print, print, port=intake.port):
        pass


def talk(port: int, said: bytes) -> bytes:
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT) as connection:
        connection.sendall(said)
        with suppress(ConnectionResetError):
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(2**16):
                answer += data
    return answer


def test_http_1_is_told_where_it_belongs(intake):
    answer = talk(intake.port, b"POST /v1/traces HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"usually 4318" in answer
    (reason,) = intake.rejected
    assert reason.startswith("gRPC: the client speaks HTTP/1.1;")


def test_tls_is_told_apart(intake):
    assert talk(intake.port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)) == b""
    assert intake.rejected == ["gRPC: the client speaks TLS; the endpoint must begin with http://"]


def test_garbage_ends_its_own_connection_only(intake, client):
    talk(intake.port, b"torn from elsewhere")
    talk(intake.port, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(30))
    wait_until(lambda: len(intake.rejected) == 2)
    assert all(each.startswith("gRPC: what arrived is not HTTP/2 (") for each in intake.rejected)
    stream = client.begin()
    client.data(stream, message(traces()), end=True)
    assert client.status(stream) == (0, "")


def frames() -> bytes:
    """A whole conversation of a client, as bytes."""
    http = H2Connection(H2Configuration(client_side=True))
    http.initiate_connection()
    for stream in (1, 3):
        http.send_headers(stream, HEADERS)
        http.send_data(stream, message(traces()), end_stream=True)
    http.ping(b"01234567")
    return http.data_to_send()


@settings(max_examples=50, deadline=None, database=None)
@given(st.integers(0, len(frames())), st.integers(0, 20), st.binary(max_size=20))
def test_frames_with_anything_wrong_break_no_thread(at, removed, added):
    sent = frames()
    with patch("otel_queue_bridge.otlp.grpc._Server.handle_error") as failed, Intake() as intake:
        talk(intake.port, sent[:at] + added + sent[at + removed :])
        with Client(intake.port) as client:
            stream = client.begin()
            client.data(stream, message(traces()), end=True)
            assert client.status(stream) == (0, "")
    assert not failed.called
    assert len(intake.rejected) <= 3
