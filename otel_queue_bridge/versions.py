"""Which versions of a library were tested, and what to do about others."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

from opentelemetry.instrumentation.dependencies import DependencyConflict, get_dependency_conflicts
from packaging.requirements import Requirement

from otel_queue_bridge.config import VARIABLE

if TYPE_CHECKING:
    from types import ModuleType

    from otel_queue_bridge.adapter import Adapter, Hook, Variant

_logger = logging.getLogger("otel_queue_bridge")

ALLOW = f"{VARIABLE}UNTESTED_VERSIONS=true"


class Untested(DependencyConflict):
    """A library is installed in a version outside the tested range."""

    def __init__(self, adapter: Adapter, found: str) -> None:
        super().__init__(range_of(adapter), found)

    def __str__(self) -> str:
        return (
            f"{self.found} is outside the tested range, {self.required}; "
            f"{ALLOW} (or the option untested_versions) instruments it as far as possible"
        )

    def tolerated(self, missing: list[str]) -> str:
        """Say that it is instrumented all the same, and what it lacks."""
        without = f"without {', '.join(missing)}, which it lacks" if missing else "as tested ones"
        return (
            f"{self.found} is outside the tested range, {self.required}; "
            f"it is instrumented all the same, {without}"
        )


def range_of(adapter: Adapter) -> str:
    return ", ".join(adapter.tested)


def required(adapter: Adapter) -> tuple[str, ...]:
    """Return the tested ranges that count here: of several variants, those that are installed."""
    return adapter.instruments + tuple(
        variant.tested for variant in adapter.instruments_any if _is_installed(variant)
    )


def _is_installed(variant: Variant) -> bool:
    name = Requirement(variant.tested).name
    return get_dependency_conflicts([f"{name} >= {variant.since}"]) is None


def conflict(adapter: Adapter) -> DependencyConflict | None:
    """Return what is wrong with the installed version: Untested, or a library that is missing."""
    counts = required(adapter)
    if adapter.instruments_any and not counts:
        return DependencyConflict(range_of(adapter))
    found = get_dependency_conflicts(counts)
    return found if found is None or found.found is None else Untested(adapter, found.found)


def modules(adapter: Adapter) -> tuple[str, ...]:
    """Return the modules whose import shows that a process uses the library."""
    if adapter.instruments_any:
        return tuple(variant.module for variant in adapter.instruments_any)
    module = next((hook.target.partition(":")[0] for hook in adapter.hooks), adapter.system)
    return (module.partition(".")[0],)


class Gaps:
    """What hooks do not find in an untested version: one warning names it.

    It comes when the library has been imported. What is missing in a module that is
    imported later is reported then, like anything that goes wrong.
    """

    def __init__(self, adapter: Adapter, untested: Untested) -> None:
        self._adapter = adapter
        self._untested = untested
        self._missing: list[str] | None = []

    def add(self, target: str) -> bool:
        """Note a missing target; False if the warning has been given."""
        if self._missing is None:
            return False
        self._missing.append(target)
        return True

    def tell(self, _: ModuleType) -> None:
        if self._missing is None:
            return
        missing, self._missing = self._missing + lacking_modules(self._adapter), None
        _logger.warning("%s", self._untested.tolerated(missing))


def lacking_modules(adapter: Adapter) -> list[str]:
    """Return the modules of hooks that do not exist, without importing any."""
    modules = [hook.target.partition(":")[0] for hook in adapter.hooks if not hook.optional]
    return [module for module in dict.fromkeys(modules) if not _exists(module)]


def lacking(adapter: Adapter) -> list[str]:
    """Return the targets that do not exist; this imports all of the library that is patched."""
    return [hook.target for hook in adapter.hooks if not (hook.optional or _is_there(hook))]


def _exists(module: str) -> bool:
    path, name = None, ""
    for part in module.split("."):
        name = f"{name}.{part}".lstrip(".")
        try:
            spec = PathFinder.find_spec(name, path)
        except KeyError:  # in a namespace package, whose place its parent knows once it is imported
            return True
        if spec is None:
            return path is None  # somebody else's finder may know this package
        path = spec.submodule_search_locations
    return True


def _is_there(hook: Hook) -> bool:
    module, _, path = hook.target.partition(":")
    parent, _, name = path.rpartition(".")
    try:
        owner: Any = import_module(module)
        for part in parent.split(".") if parent else ():
            owner = getattr(owner, part)
    except (ImportError, AttributeError):
        return False
    except Exception:  # noqa: BLE001 - it needs its app's settings, say, and tells nothing
        return True
    owners = [owner]
    if hook.overrides:
        for one in owners:
            owners += one.__subclasses__()
    return not name or any(hasattr(one, name) for one in owners)
