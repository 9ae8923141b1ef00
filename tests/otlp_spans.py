"""Requests of OTLP, made by hand."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

MILLISECOND = 10**6
KINDS = {"submit": 4, "dispatch": 3, "execute": 5}


@dataclass(frozen=True)
class Made:
    """A span to send; ids are small numbers, times are milliseconds since `began`."""

    name: str
    trace: int = 1
    span: int = 1
    parent: int = 0
    service: str = "web"
    start: int = 0
    end: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)
    links: tuple[tuple[int, int], ...] = ()
    error: bool = False
    kind: int = 1


def task(
    step: str, span: int, parent: int = 0, *, trace: int = 1, service: str = "", **more: Any
) -> Made:
    """Return one of the three spans of a task."""
    attributes = {
        "messaging.system": more.pop("system", "celery"),
        "messaging.operation.name": step,
        "messaging.destination.name": more.pop("queue", "default"),
        "messaging.message.id": more.pop("task_id", "t1"),
        "task.name": more.pop("task", "send"),
        **{
            f"task.{name}": more.pop(name) for name in ("status", "attempt", "wait") if name in more
        },
    }
    service = service or ("web" if step == "submit" else "worker")
    name, kind = f"{step} {attributes['task.name']}", KINDS[step]
    return Made(name, trace, span, parent, service, attributes=attributes, kind=kind, **more)


def trace_id(number: int) -> str:
    return f"{number:032x}"


def span_id(number: int) -> str:
    return f"{number:016x}"


def spans(*made: Made, began: float | None = None) -> ExportTraceServiceRequest:
    """Return a request; `began` is in seconds since the epoch, now if not given."""
    zero = int((time.time() if began is None else began) * 1e9)
    request = ExportTraceServiceRequest()
    for one in made:
        group = request.resource_spans.add()
        attribute(group.resource, "service.name", one.service)
        span = group.scope_spans.add().spans.add()
        span.name, span.kind = one.name, one.kind
        span.trace_id = bytes.fromhex(trace_id(one.trace))
        span.span_id = bytes.fromhex(span_id(one.span))
        if one.parent:
            span.parent_span_id = bytes.fromhex(span_id(one.parent))
        span.start_time_unix_nano = zero + one.start * MILLISECOND
        span.end_time_unix_nano = zero + one.end * MILLISECOND
        for name, value in one.attributes.items():
            attribute(span, name, value)
        for trace, linked in one.links:
            link = span.links.add()
            link.trace_id = bytes.fromhex(trace_id(trace))
            link.span_id = bytes.fromhex(span_id(linked))
        if one.error:
            span.status.code = 2
    return request


def attribute(message: Any, name: str, value: Any) -> None:
    pair = message.attributes.add()
    pair.key = name
    kind = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}
    setattr(pair.value, kind[type(value)], value)


def log(body: str, *, trace: int = 1, span: int = 1) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    record = request.resource_logs.add().scope_logs.add().log_records.add()
    record.body.string_value = body
    record.trace_id, record.span_id = (
        bytes.fromhex(trace_id(trace)),
        bytes.fromhex(span_id(span)),
    )
    record.time_unix_nano = time.time_ns()
    return request


def metric(
    name: str,
    value: int | None = None,
    *,
    process: str = "1",
    cumulative: bool = True,
    buckets: tuple[int, ...] = (),
    bounds: tuple[float, ...] = (),
    began: float | None = None,
    **attributes: str,
) -> ExportMetricsServiceRequest:
    """Return one data point: a counter's, or a histogram's if it has buckets."""
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    attribute(group.resource, "service.name", "worker")
    attribute(group.resource, "service.instance.id", process)
    found = group.scope_metrics.add().metrics.add()
    found.name = name
    data = found.histogram if buckets else found.sum
    data.aggregation_temporality = 2 if cumulative else 1
    point = data.data_points.add()
    point.start_time_unix_nano = int((time.time() if began is None else began) * 1e9)
    point.time_unix_nano = time.time_ns()
    if buckets:
        point.bucket_counts.extend(buckets)
        point.explicit_bounds.extend(bounds)
        point.count = sum(buckets)
    else:
        point.as_int = value or 0
    for name_, one in {
        "messaging.system": "celery",
        "messaging.destination.name": "default",
        "task.name": "send",
        **{key.replace("_", ".", 1): one for key, one in attributes.items()},
    }.items():
        attribute(point, name_, one)
    return request
