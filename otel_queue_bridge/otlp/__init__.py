"""A receiver for OTLP, and the data it receives. It uses nothing else of this package."""

from otel_queue_bridge.otlp.receiver import Receiver
from otel_queue_bridge.otlp.records import (
    Event,
    Link,
    Log,
    Point,
    Span,
    read_logs,
    read_points,
    read_spans,
    to_otlp_json,
)

__all__ = [
    "Event",
    "Link",
    "Log",
    "Point",
    "Receiver",
    "Span",
    "read_logs",
    "read_points",
    "read_spans",
    "to_otlp_json",
]
