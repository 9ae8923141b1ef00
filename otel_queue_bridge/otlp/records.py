"""OTLP data, decoded: spans with their events and links, and data points."""

from __future__ import annotations

import json
from base64 import b64decode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf.json_format import MessageToJson  # type: ignore[import-untyped]
from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.message import Message  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
        ExportMetricsServiceRequest,
    )
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

Attributes: TypeAlias = dict[str, Any]


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
    """Empty for a root span."""
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
    """For a sum or gauge; a histogram has the fields that follow."""
    count: int = 0
    sum: float = 0
    bucket_counts: tuple[int, ...] = ()
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Log:
    """A log record; its time in nanoseconds since the epoch, ids in lower hex or empty."""

    time: int
    severity: str
    """The text that its sender gave, else the name of the number, such as WARN2; may be empty."""
    body: str
    """A body that is no text is written as JSON."""
    trace_id: str
    span_id: str
    attributes: Attributes
    service: str


def read_spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    """Yield every span of a request."""
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_spans:
            for span in scope.spans:
                yield Span(
                    name=span.name,
                    kind=_name(SpanMessage.SpanKind, span.kind, "SPAN_KIND_"),
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
                    status=_name(Status.StatusCode, span.status.code, "STATUS_CODE_"),
                    status_message=span.status.message,
                    service=str(resource.get("service.name", "")),
                    resource=resource,
                    scope=scope.scope.name,
                    scope_version=scope.scope.version,
                    schema_url=scope.schema_url or group.schema_url,
                )


def read_points(request: ExportMetricsServiceRequest) -> Iterator[Point]:
    """Yield every sum, gauge and histogram data point of a request."""
    for group in request.resource_metrics:
        resource = _attributes(group.resource.attributes)
        for scope in group.scope_metrics:
            for metric in scope.metrics:
                yield from _points(metric, resource, scope.scope.name)


def read_logs(request: ExportLogsServiceRequest) -> Iterator[Log]:
    """Yield every log record of a request."""
    for group in request.resource_logs:
        service = str(_attributes(group.resource.attributes).get("service.name", ""))
        for scope in group.scope_logs:
            for record in scope.log_records:
                number = record.severity_number
                severity = _name(SeverityNumber, number, "SEVERITY_NUMBER_") if number else ""
                yield Log(
                    time=record.time_unix_nano or record.observed_time_unix_nano,
                    severity=record.severity_text or severity,
                    body=_text(record.body),
                    trace_id=record.trace_id.hex(),
                    span_id=record.span_id.hex(),
                    attributes=_attributes(record.attributes),
                    service=service,
                )


def _points(metric: Metric, resource: Attributes, scope: str) -> Iterator[Point]:
    kind = metric.WhichOneof("data")
    if kind not in ("sum", "gauge", "histogram"):
        return
    data = getattr(metric, kind)
    temporality = _name(
        AggregationTemporality,
        getattr(data, "aggregation_temporality", 0),
        "AGGREGATION_TEMPORALITY_",
    )
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
            temporality=temporality,
            attributes=_attributes(point.attributes),
            service=str(resource.get("service.name", "")),
            resource=resource,
            scope=scope,
            start=point.start_time_unix_nano,
            time=point.time_unix_nano,
            **measured,
        )


def to_otlp_json(request: Message, *, indent: int | None = 2) -> str:
    """Write a request as OTLP JSON; unlike in protobuf's JSON, its ids are hex."""

    def with_hex_ids(entry: dict[str, Any]) -> dict[str, Any]:
        for name in ("traceId", "spanId", "parentSpanId"):
            if name in entry:
                entry[name] = b64decode(entry[name]).hex()
        return entry

    text = MessageToJson(request, use_integers_for_enums=True)
    return json.dumps(json.loads(text, object_hook=with_hex_ids), indent=indent)


def _attributes(pairs: Iterable[KeyValue]) -> Attributes:
    return {pair.key: _value(pair.value) for pair in pairs}


def _text(value: AnyValue) -> str:
    read = "" if value.WhichOneof("value") is None else _value(value)
    return read if isinstance(read, str) else json.dumps(read, ensure_ascii=False)


def _name(names: Any, number: int, prefix: str) -> str:
    """Return an enum's name, or its number if the sender knows names that we do not."""
    try:
        return str(names.Name(number)).removeprefix(prefix)
    except ValueError:
        return str(number)


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    if kind == "bytes_value":
        return value.bytes_value.hex()
    return getattr(value, kind) if kind else None
