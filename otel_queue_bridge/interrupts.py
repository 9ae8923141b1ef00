"""Exceptions that a host library raises into whatever code is running, ours too: time limits.

They are meant for the task. Wherever our code contains what goes wrong in it, they pass.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_names: set[str] = set()


def expect(names: Iterable[str]) -> None:
    """From now on, let exceptions of these names pass."""
    _names.update(names)


def pass_on(error: Exception) -> None:
    """Raise it again if it is one of them."""
    if type(error).__name__ in _names:
        raise error
