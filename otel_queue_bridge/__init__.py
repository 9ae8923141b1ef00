"""One trace and the same metrics through every Python task queue.

PYTEST_DONT_REWRITE: where `opentelemetry-instrument` starts pytest, we are imported before our
plugin is, and pytest would warn of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_queue_bridge.config import ConfigError

if TYPE_CHECKING:
    from otel_queue_bridge.instrumentor import instrument, uninstrument
    from otel_queue_bridge.propagation import relation

    __version__: str
else:

    def __getattr__(name: str) -> object:
        # Late: an unknown name in OTEL_PROPAGATORS breaks the import of OpenTelemetry's
        # instrumentation package (0.66), and `doctor`, which lives in here, has to report that.
        if name == "__version__":
            from importlib.metadata import version  # noqa: PLC0415

            return version("otel-queue-bridge")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name == "relation":
            from otel_queue_bridge.propagation import relation  # noqa: PLC0415

            return relation
        from otel_queue_bridge import instrumentor  # noqa: PLC0415

        return getattr(instrumentor, name)


__all__ = ["ConfigError", "__version__", "instrument", "relation", "uninstrument"]
