"""A small OTLP/HTTP collector on the loopback interface that keeps what it is sent.

`demo` and `view` draw what it received; the tests use it as their oracle.
"""

from __future__ import annotations

import gzip
import json
import socket
import threading
import zlib
from base64 import b64decode
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakSet

from google.protobuf.json_format import MessageToJson  # type: ignore[import-untyped]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from typing_extensions import Self

Attributes: TypeAlias = dict[str, Any]
Request: TypeAlias = (
    ExportTraceServiceRequest | ExportMetricsServiceRequest | ExportLogsServiceRequest
)

_SERVICES: dict[str, tuple[type[Request], bytes]] = {
    "/v1/traces": (ExportTraceServiceRequest, ExportTraceServiceResponse().SerializeToString()),
    "/v1/metrics": (
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse().SerializeToString(),
    ),
    "/v1/logs": (ExportLogsServiceRequest, ExportLogsServiceResponse().SerializeToString()),
}


@dataclass(frozen=True, slots=True)
class Event:
    name: str
    time: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Link:
    trace_id: str
    span_id: str
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it arrived; ids in lower hex, times in nanoseconds since the epoch."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for a root."""
    start: int
    end: int
    attributes: Attributes
    events: tuple[Event, ...]
    links: tuple[Link, ...]
    status: str
    """UNSET, OK or ERROR."""
    status_message: str
    service: str
    resource: Attributes
    scope: str
    scope_version: str
    schema_url: str


@dataclass(frozen=True, slots=True)
class Point:
    """One data point of one metric; times in nanoseconds since the epoch."""

    metric: str
    unit: str
    description: str
    kind: str
    """sum, gauge or histogram."""
    monotonic: bool
    temporality: str
    """CUMULATIVE or DELTA; UNSPECIFIED for a gauge."""
    attributes: Attributes
    service: str
    resource: Attributes
    scope: str
    start: int
    time: int
    value: float = 0
    """Of a sum or gauge."""
    count: int = 0
    sum: float = 0
    bucket_counts: tuple[int, ...] = ()
    bounds: tuple[float, ...] = ()


class Receiver:
    """Accepts traces, metrics and logs over OTLP/HTTP (protobuf) while its `with` block lasts.

    `respond` decides the status code of each request from its path; what is answered with
    anything but 200 is not kept. With `hang`, requests are read and answered only by the end of
    the connection, when the receiver closes. `port` 0 takes a free one.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        respond: Callable[[str], int] = lambda _: HTTPStatus.OK,
        hang: bool = False,
    ) -> None:
        self._port = port
        self._respond = respond
        self._hang = hang
        self._closed = threading.Event()
        self._arrived = threading.Condition()
        self.clear()

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", self._port), self._answer, self._reject)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """The value for OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def clear(self) -> None:
        """Forget everything received so far."""
        with self._arrived:
            self._bodies: list[bytes] = []
            self._requests: list[Request] = []
            self._rejected: list[str] = []
            self._spans: list[Span] = []
            self._points: list[Point] = []

    def spans(self) -> list[Span]:
        """Every span in the order of arrival, repeated ones too."""
        with self._arrived:
            return list(self._spans)

    def points(self) -> list[Point]:
        """Every data point of every export: cumulative ones arrive again and again."""
        with self._arrived:
            return list(self._points)

    def latest(self) -> list[Point]:
        """Keep only the last data point per resource, metric and attributes."""
        series = {
            json.dumps([point.resource, point.metric, point.attributes], sort_keys=True): point
            for point in self.points()
        }
        return list(series.values())

    @property
    def requests(self) -> list[Request]:
        """The accepted requests, decoded."""
        with self._arrived:
            return list(self._requests)

    @property
    def rejected(self) -> list[str]:
        """Why requests were refused that were not OTLP: what garbled connections produce."""
        with self._arrived:
            return list(self._rejected)

    def raw(self) -> bytes:
        """Join the bodies of all requests, decompressed: for proof that something never left."""
        with self._arrived:
            return b"".join(self._bodies)

    def trace_request(self) -> ExportTraceServiceRequest:
        """All spans in one request, as a collector would pass them on."""
        merged = ExportTraceServiceRequest()
        for request in self.requests:
            if isinstance(request, ExportTraceServiceRequest):
                merged.MergeFrom(request)
        return merged

    def wait_for(self, condition: Callable[[list[Span]], bool], timeout: float) -> list[Span]:
        """Wait until `condition` holds for the received spans, and return them.

        It is asked again after each request, metrics included. Raises `TimeoutError`, listing
        what did arrive, after `timeout` seconds.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: condition(list(self._spans)), timeout):
                raise TimeoutError(
                    f"condition not met within {timeout:g} s; {_summary(self._spans)}"
                )
            return list(self._spans)

    def _answer(self, path: str, encoding: str, body: bytes) -> tuple[int, bytes]:
        """Keep one request; gives the status code and body of the response."""
        if self._hang:
            self._closed.wait()
            raise ConnectionAbortedError
        if path not in _SERVICES:
            return HTTPStatus.NOT_FOUND, b""
        message, response = _SERVICES[path]
        try:
            content = gzip.decompress(body) if encoding == "gzip" else body
            request = message.FromString(content)
        except (DecodeError, EOFError, OSError, zlib.error) as error:
            self._reject(f"{path}: {error}")
            return HTTPStatus.BAD_REQUEST, b""
        status = self._respond(path)
        with self._arrived:
            self._bodies.append(content)
            if status == HTTPStatus.OK:
                self._requests.append(request)
                if isinstance(request, ExportTraceServiceRequest):
                    self._spans += read_spans(request)
                elif isinstance(request, ExportMetricsServiceRequest):
                    self._points += read_points(request)
            self._arrived.notify_all()
        return status, response if status == HTTPStatus.OK else b""

    def _reject(self, reason: str) -> None:
        with self._arrived:
            self._rejected.append(reason)


class _Server(ThreadingHTTPServer):
    # Joined on close: no thread may outlive the `with` block.
    daemon_threads = False

    def __init__(
        self,
        address: tuple[str, int],
        answer: Callable[[str, str, bytes], tuple[int, bytes]],
        reject: Callable[[str], None],
    ) -> None:
        self.answer = answer
        self.reject = reject
        self.connections: WeakSet[socket.socket] = WeakSet()
        super().__init__(address, _Connection)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def server_close(self) -> None:
        # Clients keep idle connections open; without this their threads would never end.
        for connection in tuple(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that goes away is no news here."""


class _Connection(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        encoding = self.headers.get("Content-Encoding", "identity")
        status, response = self.server.answer(self.path, encoding, body)
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(response)))
        self.end_headers()
        self.wfile.write(response)

    def log_error(self, format: str, *args: object) -> None:  # noqa: A002 - the overridden name
        self.server.reject(format % args)

    def log_request(self, code: object = "", size: object = "") -> None:
        """Keep the terminal for the reader."""


def read_spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    """Every span of a request."""
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Span(
                    name=span.name,
                    kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent_id=span.parent_span_id.hex(),
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    attributes=_attributes(span.attributes),
                    events=tuple(
                        Event(event.name, event.time_unix_nano, _attributes(event.attributes))
                        for event in span.events
                    ),
                    links=tuple(
                        Link(link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes))
                        for link in span.links
                    ),
                    status=Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
                    status_message=span.status.message,
                    service=str(resource.get("service.name", "")),
                    resource=resource,
                    scope=scope.scope.name,
                    scope_version=scope.scope.version,
                    schema_url=scope.schema_url or group.schema_url,
                )


def read_points(request: ExportMetricsServiceRequest) -> Iterator[Point]:
    """Every sum, gauge and histogram data point of a request."""
    for group in request.resource_metrics:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                yield from _points(metric, resource, scope.scope.name)


def _points(metric: Metric, resource: Attributes, scope: str) -> Iterator[Point]:
    kind = metric.WhichOneof("data")
    if kind not in ("sum", "gauge", "histogram"):
        return
    data = getattr(metric, kind)
    temporality = AggregationTemporality.Name(getattr(data, "aggregation_temporality", 0))
    for point in data.data_points:
        if kind == "histogram":
            measured = {
                "count": point.count,
                "sum": point.sum,
                "bucket_counts": tuple(point.bucket_counts),
                "bounds": tuple(point.explicit_bounds),
            }
        else:
            measured = {"value": getattr(point, point.WhichOneof("value") or "as_int")}
        yield Point(
            metric=metric.name,
            unit=metric.unit,
            description=metric.description,
            kind=kind,
            monotonic=getattr(data, "is_monotonic", False),
            temporality=temporality.removeprefix("AGGREGATION_TEMPORALITY_"),
            attributes=_attributes(point.attributes),
            service=str(resource.get("service.name", "")),
            resource=resource,
            scope=scope,
            start=point.start_time_unix_nano,
            time=point.time_unix_nano,
            **measured,
        )


def to_otlp_json(request: ExportTraceServiceRequest) -> str:
    """Write a request as OTLP JSON, which differs from protobuf's JSON: its ids are hex."""

    def with_hex_ids(entry: dict[str, Any]) -> dict[str, Any]:
        for name in ("traceId", "spanId", "parentSpanId"):
            if name in entry:
                entry[name] = b64decode(entry[name]).hex()
        return entry

    text = MessageToJson(request, use_integers_for_enums=True)
    return json.dumps(json.loads(text, object_hook=with_hex_ids), indent=2)


def _attributes(pairs: Iterable[KeyValue]) -> Attributes:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    if kind == "bytes_value":
        return value.bytes_value.hex()
    return getattr(value, kind) if kind else None


def _summary(spans: list[Span]) -> str:
    if not spans:
        return "no span arrived"
    lines = (
        f"  {span.service}: {span.name} ({span.kind}, {span.status}) "
        f"trace {span.trace_id} span {span.span_id} parent {span.parent_id or '-'}"
        for span in spans
    )
    return "\n".join([f"{len(spans)} spans arrived:", *lines])
