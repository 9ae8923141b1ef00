"""One trace and the same metrics through every Python task queue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_queue_bridge.config import ConfigError

if TYPE_CHECKING:
    from otel_queue_bridge.instrumentor import instrument, uninstrument

__all__ = ["ConfigError", "instrument", "uninstrument"]


def __getattr__(name: str) -> Any:
    # Late: an unknown name in OTEL_PROPAGATORS breaks the import of OpenTelemetry's instrumentation
    # package (0.66), and `doctor`, which lives in here, has to be able to say so.
    if name not in __all__:
        raise AttributeError(name)
    from otel_queue_bridge import instrumentor  # noqa: PLC0415

    return getattr(instrumentor, name)
