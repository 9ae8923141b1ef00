"""How a failure is reported: of a task in its span, of ours in the log, and without secrets.

A failure of ours is contained where it happens. What passes all containment are the exceptions
that a host library raises into whatever code is running, ours too: its time limits.
"""

from __future__ import annotations

import logging
import re
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_logger = logging.getLogger("otel_queue_bridge")

_CREDENTIALS = (
    (re.compile(r"(?<=://)[^\s\"'<>]{1,256}(?=@)"), "***"),
    # A password with a blank in it, up to the last @ of what may be one.
    (re.compile(r"(?<=://)[^\s\"'<>/@:]{0,256}:[^\n\"'<>/]{1,256}(?=@)"), "***"),
    (
        re.compile(
            r"(?i)\b(\w*(?:password|passwd|pwd|secret|token|api[_-]?key)[\"']?\s*[=:]\s*[\"']?)"
            r"[^\s\"'<>,;&]+"
        ),
        r"\g<1>***",
    ),
)
LONGEST = 200
"""Characters of a name from outside; the rest is cut off."""
_REPORTED = 1000
"""Places remembered as reported; a user's task names may be endless."""

_interrupts: dict[object, frozenset[str]] = {}
"""Names of the exceptions that pass, by who expects them."""


def expect(owner: object, names: Iterable[str]) -> None:
    """Let these exceptions (`module:Qualified.name`) and their subclasses pass from now on."""
    _interrupts[owner] = frozenset(name.replace(":", ".") for name in names)


def forget(owner: object) -> None:
    """Let those that this owner expected pass no more."""
    _interrupts.pop(owner, None)


def pass_on(error: BaseException) -> None:
    """Raise it again if the host meant it for the task.

    A signal's handler raises wherever the process may be: whichever queue's code that is, the
    time limit of any queue passes.
    """
    if _interrupts:
        kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
        if any(not kinds.isdisjoint(names) for names in tuple(_interrupts.values())):
            raise error


def message(error: BaseException) -> str:
    """Return the exception's text, masked; empty if it cannot be shown."""
    try:
        return masked(str(error))
    except Exception as unprintable:  # noqa: BLE001 - the host's exception may be unprintable
        pass_on(unprintable)
        return ""


def stack_trace(error: BaseException, *, messages: bool) -> str:
    """Return the traceback as Python prints it, masked.

    Without messages it has neither those nor source lines, which may hold one as a literal.
    """
    if messages:
        return masked("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    frames = traceback.extract_tb(error.__traceback__)
    return encodable(
        "".join(f'  File "{at.filename}", line {at.lineno}, in {at.name}\n' for at in frames)
    )


def masked(text: str) -> str:
    """Hide credentials: those in URLs, and what follows `password=` and its like."""
    for pattern, shown in _CREDENTIALS:
        text = pattern.sub(shown, text)
    return encodable(text)


def encodable(text: str) -> str:
    """Replace what is not Unicode: a lone surrogate would cost the whole batch its export."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class Reports:
    """What has gone wrong in one queue's telemetry: one warning for each place."""

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._places: set[object] = set()

    def report(self, place: object, error: BaseException, consequence: str) -> None:
        """Log it, unless the host meant it for the task.

        The error's text may quote a task's arguments; its type and its place do not.
        """
        pass_on(error)
        kind = type(error).__name__
        if place not in self._places and len(self._places) < _REPORTED:
            self._places.add(place)
            text = "%s: %s at %s; %s, and this is logged once"
            _logger.warning(text, self._queue, kind, place, consequence)
        if _logger.isEnabledFor(logging.DEBUG):
            trace = stack_trace(error, messages=False)
            _logger.debug("%s: %s at %s\n%s", self._queue, kind, place, trace)
