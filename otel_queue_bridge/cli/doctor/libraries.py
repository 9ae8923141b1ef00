"""List the queue libraries that have an adapter, and check which are installed here."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, NamedTuple

from otel_queue_bridge.versions import Untested, conflict

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from opentelemetry.instrumentation.dependencies import DependencyConflict

    from otel_queue_bridge.adapter import Adapter, BuiltIn
    from otel_queue_bridge.config import Config


class Library(NamedTuple):
    """One queue library, seen through its adapter."""

    queue: str
    adapter: Adapter | None
    conflict: DependencyConflict | None = None
    error: str = ""
    """Why the adapter could not be loaded."""
    allowed: bool = False
    """Whether an untested version is to be instrumented, too."""

    @property
    def works(self) -> bool:
        """Tell whether it is installed, in a version that is instrumented."""
        if isinstance(self.conflict, Untested):
            return self.allowed
        return not self.error and self.conflict is None

    @property
    def rivals(self) -> tuple[str, ...]:
        return self.adapter.rivals if self.adapter else ()

    @property
    def built_in(self) -> BuiltIn | None:
        return self.adapter.built_in if self.adapter else None

    @property
    def switch(self) -> str:
        return self.adapter.switch if self.adapter else ""


def libraries(config: Config) -> list[Library]:
    # Do not import `instrumentor`: that fails on wrong OTEL_PROPAGATORS, which `doctor` explains.
    points = {point.name: point for point in entry_points(group="otel_queue_bridge.adapters")}
    return [_library(points[queue], config) for queue in sorted(points)]


def _library(point: EntryPoint, config: Config) -> Library:
    try:
        adapter: Adapter = point.load()
        allowed = config.untested_versions
        return Library(point.name, adapter, conflict(adapter), allowed=allowed)
    except Exception as error:  # noqa: BLE001 - a stranger's adapter
        return Library(point.name, None, error=f"{type(error).__name__}: {error}")
