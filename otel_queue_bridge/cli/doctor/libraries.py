"""List the queue libraries that have an adapter, and check which are installed here."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.instrumentation.dependencies import DependencyConflict, get_dependency_conflicts

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from otel_queue_bridge.adapter import Adapter, BuiltIn


class Library(NamedTuple):
    """One queue library, seen through its adapter."""

    queue: str
    adapter: Adapter | None
    conflict: DependencyConflict | None = None
    error: str = ""
    """Why the adapter could not be loaded."""

    @property
    def works(self) -> bool:
        """Tell whether it is installed, in a version that can be instrumented."""
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


def libraries() -> list[Library]:
    # Do not import `instrumentor`: that fails on wrong OTEL_PROPAGATORS, which `doctor` explains.
    points = {point.name: point for point in entry_points(group="otel_queue_bridge.adapters")}
    return [_library(points[queue]) for queue in sorted(points)]


def _library(point: EntryPoint) -> Library:
    try:
        adapter: Adapter = point.load()
        return Library(point.name, adapter, get_dependency_conflicts(adapter.instruments))
    except Exception as error:  # noqa: BLE001 - a stranger's adapter
        return Library(point.name, None, error=f"{type(error).__name__}: {error}")
