"""A receiver for OTLP, and the data it receives. It uses nothing else of this package."""

from otel_queue_bridge.otlp.receiver import Receiver
from otel_queue_bridge.otlp.records import (
    Event,
    Link,
    Point,
    Span,
    read_points,
    read_spans,
    to_otlp_json,
)

__all__ = [
    "Event",
    "Link",
    "Point",
    "Receiver",
    "Span",
    "read_points",
    "read_spans",
    "to_otlp_json",
]
