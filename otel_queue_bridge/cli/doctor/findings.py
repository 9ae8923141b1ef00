"""The findings that a check reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping


class Finding(NamedTuple):
    """One fact, how bad it is, and what to do: a command or a line that sets a variable."""

    level: Literal["ok", "warning", "problem"]
    message: str
    advice: str
    details: Mapping[str, str | float | None]


def ok(message: str, advice: str = "", **details: str | float | None) -> Finding:
    return Finding("ok", message, advice, details)


def warning(message: str, advice: str, **details: str | float | None) -> Finding:
    """Report something that works, but perhaps not as intended."""
    return Finding("warning", message, advice, details)


def problem(message: str, advice: str, **details: str | float | None) -> Finding:
    """Report what keeps traces or metrics from arriving, or a setting from taking effect."""
    return Finding("problem", message, advice, details)
