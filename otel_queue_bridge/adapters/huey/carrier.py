"""The carrier: a trailer behind the pickled message.

`pickle.loads` reads no further than the end of the pickle. A peer without us does not see what
follows: JSON, its length and a mark. A field more in the message would be an error there, and a
key more in the arguments would reach the user's function. The base class appends it, so it is
signed and compressed like the message; a serializer that does not call its parent's `_serialize`
carries nothing.
"""

from __future__ import annotations

import json
import logging
import zlib
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder

_logger = logging.getLogger("otel_queue_bridge")

_HELD = "otel_carrier"
"""The attribute of a task that holds its carrier."""
_MARK = b"otel\n"  # a pickle ends with a full stop
_LENGTH = 4
_LONGEST = 1 << 16
_SIGNATURE = 128
"""More bytes than a serializer's signature has."""
_ANY_FORMAT = zlib.MAX_WBITS | 32
"""Has zlib find out whether it is gzip's format."""

writing: ContextVar[list[dict[str, Any]] | None] = ContextVar(
    "otel_queue_bridge.huey.writing", default=None
)
"""The carrier of the message that is being serialized, until that has it."""


class Message:
    """A message that is being deserialized, as far as it is known."""

    def __init__(self) -> None:
        self.carrier: dict[str, Any] | None = None
        self.fields: Any = None


reading: ContextVar[Message | None] = ContextVar("otel_queue_bridge.huey.reading", default=None)


def carrier(task: Any) -> dict[str, Any]:
    held: dict[str, Any] = vars(task).get(_HELD) or {}
    return held


def keep(task: Any, held: dict[str, Any]) -> None:
    """Let the task have this carrier, or none."""
    if held:
        setattr(task, _HELD, held)
    else:
        vars(task).pop(_HELD, None)


def write(call: Call, _: Recorder) -> Generator[None, None, None]:
    held = carrier(call.argument(0, "task"))
    if not held:
        return
    waiting = [held]
    token = writing.set(waiting)
    yield
    writing.reset(token)
    if waiting and call.error is None:
        _warn(call.instance.serializer.__class__)


@lru_cache(100)
def _warn(serializer: type) -> None:
    """Say, once for each class, that it does not call the method that appends the trailer."""
    name = f"{serializer.__module__}.{serializer.__qualname__}"
    _logger.warning("%s carries no trace: its _serialize has to call that of its parent", name)


def append(call: Call, _: Recorder) -> Generator[None, None, None]:
    waiting = writing.get()
    if not waiting:  # the message has it, and this is something else
        return
    written = json.dumps(waiting.pop()).encode()
    yield
    if call.error is None:
        call.result += written + len(written).to_bytes(_LENGTH, "big") + _MARK


def note(call: Call, _: Recorder) -> Generator[None, None, None]:
    message = reading.get()
    if message is not None:
        message.carrier = _trailer(call.argument(0, "data"))
        yield
        message.fields = call.result


def _trailer(data: Any) -> dict[str, Any] | None:
    """Return the carrier at the end of the data; None if there is none, or junk."""
    end = len(data) - len(_MARK) - _LENGTH
    if end < 0 or bytes(data[-len(_MARK) :]) != _MARK:
        return None
    length = int.from_bytes(data[end : end + _LENGTH], "big")
    if length > min(end, _LONGEST):
        return None
    try:
        found = json.loads(bytes(data[end - length : end]))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def stored(data: Any, serializer: Any) -> dict[str, Any] | None:
    """Return the carrier of a stored message, without running what its pickle asks for."""
    data = bytes(data)
    if getattr(serializer, "comp", False):
        try:
            data = zlib.decompress(data, _ANY_FORMAT)
        except zlib.error:
            return None
    end = data.rfind(_MARK, -_SIGNATURE) + len(_MARK)
    return _trailer(data[:end])
