"""An OTLP collector over gRPC, in the process of the test: the spans and metrics that arrive."""

import threading
from concurrent import futures
from types import TracebackType

import grpc
from opentelemetry.proto.collector.metrics.v1 import (
    metrics_service_pb2,
    metrics_service_pb2_grpc,
)
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from typing_extensions import Self

from otel_queue_bridge.otlp import Point, Span, read_points, read_spans


class GrpcReceiver(
    trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer
):
    """Keeps what it is sent while its `with` block lasts."""

    endpoint: str

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        self._points: list[Point] = []

    def __enter__(self) -> Self:
        self._server = grpc.server(futures.ThreadPoolExecutor(8))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(self, self._server)
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.endpoint = f"http://127.0.0.1:{port}"
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.stop(grace=None).wait()

    def spans(self) -> list[Span]:
        with self._lock:
            return list(self._spans)

    def points(self) -> list[Point]:
        with self._lock:
            return list(self._points)

    def Export(  # noqa: N802 - gRPC's name, of both services
        self, request: object, context: object
    ) -> object:
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            spans = list(read_spans(request))
            with self._lock:
                self._spans += spans
            return trace_service_pb2.ExportTraceServiceResponse()
        points = list(read_points(request))
        with self._lock:
            self._points += points
        return metrics_service_pb2.ExportMetricsServiceResponse()
