"""Find serializers that carry no trace, among those that this process has imported."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.cli.doctor.findings import warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_queue_bridge.cli.doctor.findings import Finding


def findings() -> Iterator[Finding]:
    """Name Huey's serializers that do not call their parent's: the trailer is appended there."""
    kinds = [getattr(sys.modules.get("huey.serializer"), "Serializer", type(None))]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        if not (_calls_on(kind, "_serialize") and _calls_on(kind, "serialize")):
            yield warning(
                f"{kind.__module__}.{kind.__qualname__}, a serializer for Huey, carries no trace",
                "have its _serialize call super()._serialize",
            )


def _calls_on(kind: Any, name: str) -> bool:
    """Tell whether the class has this method from its parent, or calls it."""
    if name not in vars(kind) or kind.__module__ == "huey.serializer":
        return True
    code = getattr(inspect.unwrap(vars(kind)[name]), "__code__", None)
    return code is None or not {"serialize", "_serialize"}.isdisjoint(code.co_names)
