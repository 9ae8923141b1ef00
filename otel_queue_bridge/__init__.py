"""One trace and the same metrics through every Python task queue."""

from otel_queue_bridge.config import ConfigError
from otel_queue_bridge.instrumentor import instrument, uninstrument

__all__ = ["ConfigError", "instrument", "uninstrument"]
