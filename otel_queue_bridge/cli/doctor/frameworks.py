"""Check that the web framework is instrumented: else the request is missing from its own trace."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from otel_queue_bridge.cli.doctor.findings import ok, warning
from otel_queue_bridge.cli.doctor.loading import DISABLED, disabled
from otel_queue_bridge.cli.doctor.versions import installed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_queue_bridge.cli.doctor.findings import Finding

_FRAMEWORKS = {"Django": "django", "Flask": "flask", "FastAPI": "fastapi", "Starlette": "starlette"}


def findings(environment: Mapping[str, str]) -> Iterator[Finding]:
    loaded = {point.name for point in entry_points(group="opentelemetry_instrumentor")}
    off = disabled(environment)
    found = {framework for framework in _FRAMEWORKS if installed(framework)}
    if "FastAPI" in found:
        found -= {"Starlette"}  # FastAPI's instrumentation covers it
    for framework in sorted(found):
        name = _FRAMEWORKS[framework]
        missing = "web requests are missing from the traces of their tasks"
        if name not in loaded:
            yield warning(
                f"{framework} is installed, but its instrumentation is not: {missing}",
                f"pip install opentelemetry-instrumentation-{name}",
            )
        elif not {name, "*"}.isdisjoint(off):
            yield warning(
                f"{framework} is switched off by {DISABLED}={environment[DISABLED]}: {missing}",
                f"take {name} out of {DISABLED}",
            )
        else:
            yield ok(f"{framework} is instrumented by opentelemetry-instrumentation-{name}")
