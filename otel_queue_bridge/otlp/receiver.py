"""A small OTLP/HTTP collector on the loopback interface that keeps all it receives.

`demo` draws the trace that arrived; `testing` and our own tests check what arrived.
"""

from __future__ import annotations

import json
import threading
from http import HTTPStatus
from typing import TYPE_CHECKING

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from otel_queue_bridge.otlp.http import Connection, LoopbackServer
from otel_queue_bridge.otlp.records import Point, Span, read_points, read_spans
from otel_queue_bridge.otlp.requests import (
    PATHS,
    PROTOBUF,
    BadRequest,
    answer_type,
    decode,
    decompress,
    encode,
    read_body,
    refusal,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from email.message import Message

    from typing_extensions import Self

    from otel_queue_bridge.otlp.requests import Request


class Receiver:
    """Accepts traces, metrics and logs over OTLP/HTTP while its `with` block lasts.

    `respond` chooses a response's status code by the path of the request. Unless it is 200, only
    `raw` shows the request. With `hang`, requests are read and never answered: their connections
    end when the receiver closes. `port` 0 means any free port.
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
        self._server = _Server(self._port, self._answer, self._reject)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
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
            self._latest: dict[str, Point] = {}

    def spans(self) -> list[Span]:
        """Return every span in order of arrival, repeated ones included."""
        with self._arrived:
            return list(self._spans)

    def points(self) -> list[Point]:
        """Return every data point of every export; cumulative ones arrive again each time."""
        with self._arrived:
            return list(self._points)

    def latest(self) -> list[Point]:
        """Return only the last data point per resource, metric and attributes."""
        with self._arrived:
            return list(self._latest.values())

    @property
    def requests(self) -> list[Request]:
        """The accepted requests, decoded."""
        with self._arrived:
            return list(self._requests)

    @property
    def rejected(self) -> list[str]:
        """The reasons why requests were refused as not OTLP; garbled connections cause these."""
        with self._arrived:
            return list(self._rejected)

    def raw(self) -> bytes:
        """Return the decompressed bodies of all requests, to prove that something was not sent."""
        with self._arrived:
            return b"".join(self._bodies)

    def trace_request(self) -> ExportTraceServiceRequest:
        """Return all spans in one request, as a collector would pass them on."""
        merged = ExportTraceServiceRequest()
        for request in self.requests:
            if isinstance(request, ExportTraceServiceRequest):
                merged.MergeFrom(request)
        return merged

    def wait_for(self, condition: Callable[[list[Span]], bool], timeout: float) -> list[Span]:
        """Wait until `condition` holds for the received spans, and return them.

        The condition is checked again after each request, whatever its signal. After `timeout`
        seconds, a `TimeoutError` lists the spans that did arrive.
        """
        with self._arrived:
            if not self._arrived.wait_for(lambda: condition(list(self._spans)), timeout):
                raise TimeoutError(
                    f"condition not met within {timeout:g} s; {_summary(self._spans)}"
                )
            return list(self._spans)

    def accept(self, request: Request) -> None:
        """Keep a decoded request, also one that has come another way, over gRPC for instance."""
        with self._arrived:
            self._requests.append(request)
            if isinstance(request, ExportTraceServiceRequest):
                self._spans += read_spans(request)
            elif isinstance(request, ExportMetricsServiceRequest):
                for point in read_points(request):
                    self._points.append(point)
                    series = [point.resource, point.metric, point.attributes]
                    self._latest[json.dumps(series, sort_keys=True)] = point
            self._arrived.notify_all()

    def _answer(self, path: str, headers: Message, body: bytes) -> tuple[int, bytes]:
        """Keep one request; return the status code and body of the response."""
        if self._hang:
            self._closed.wait()
            raise ConnectionAbortedError
        if path not in PATHS:
            return HTTPStatus.NOT_FOUND, b""
        kind = headers.get("Content-Type", PROTOBUF)
        try:
            content = decompress(body, headers.get("Content-Encoding", ""))
            request = decode(path, content, content_type=kind)
        except BadRequest as error:
            self._reject(f"{path}: {error}")
            return HTTPStatus.BAD_REQUEST, refusal(str(error), kind)
        status = self._respond(path)
        with self._arrived:
            self._bodies.append(content)
            if status == HTTPStatus.OK:
                self.accept(request)
            self._arrived.notify_all()
        return status, encode(path, kind) if status == HTTPStatus.OK else b""

    def _reject(self, reason: str) -> None:
        with self._arrived:
            self._rejected.append(reason)


class _Server(LoopbackServer):
    def __init__(
        self,
        port: int,
        answer: Callable[[str, Message, bytes], tuple[int, bytes]],
        reject: Callable[[str], None],
    ) -> None:
        self.answer = answer
        self.reject = reject
        super().__init__(port, _Connection)


class _Connection(Connection):
    server: _Server

    def do_POST(self) -> None:  # noqa: N802 - http.server calls it
        kind = self.headers.get("Content-Type", PROTOBUF)
        try:
            body = read_body(self.rfile, self.headers)
        except BadRequest as error:
            self.server.reject(f"{self.path}: {error}")
            self.close_connection = True  # what follows is no request
            self._respond(HTTPStatus.BAD_REQUEST, refusal(str(error), kind))
        else:
            self._respond(*self.server.answer(self.path, self.headers, body))

    def _respond(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", answer_type(self.headers.get("Content-Type", PROTOBUF)))
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_error(self, format: str, *args: object) -> None:  # noqa: A002 - the overridden name
        self.server.reject(format % args)


def _summary(spans: list[Span]) -> str:
    if not spans:
        return "no span arrived"
    lines = (
        f"  {span.service}: {span.name} ({span.kind}, {span.status}) "
        f"trace {span.trace_id} span {span.span_id} parent {span.parent_id or '-'}"
        for span in spans
    )
    return "\n".join([f"{len(spans)} spans arrived:", *lines])
