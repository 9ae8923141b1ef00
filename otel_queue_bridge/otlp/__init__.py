"""A receiver for OTLP and what it receives. It stands alone: nothing of the bridge is in here."""

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
