"""The pipes from forked children to the process that reports for them.

A child's own counts would start a new time series for each child, and would die with it; its
spans would need another connection. What it has to report goes down a pipe that is opened for it
before the fork, as lines that the kernel writes whole or not at all. Pipe and reading thread are
there only while there is a child.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import select
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    Receivers = Mapping[str, Callable[..., None]]

_logger = logging.getLogger("otel_queue_bridge")

_LARGEST = 64 * 1024
"""Bytes of one report: what a pipe of Linux holds."""
_UNFINISHED = 16
"""Reports of one child of which not all parts have come, at most; it may be killed between two."""
_READING_LIMIT = 1.0
"""Seconds to wait for the thread that reads; whoever exports in it may hang."""

_LOOKING_AGAIN = 5
"""Seconds after which the reader looks whether its numbers are still its own: other code may close
them, and open others, just before it begins to wait."""

_FIRST, _NEXT, _LAST = b"^", b"+", b"="
"""What a part of a long report begins with; a whole one begins with a bracket."""


class _End:
    """One end of a pipe.

    It is kept by its number, which other code may close (Celery's embedded beat closes all that
    it inherits) and the kernel then gives to another file: so it is compared before each use.
    """

    def __init__(self, number: int) -> None:
        os.set_blocking(number, False)  # a full pipe must not hold up a task
        self.number = number
        self.is_read = True
        self._file = os.fstat(number)

    def is_ours(self) -> bool:
        try:
            return self.number >= 0 and os.path.samestat(self._file, os.fstat(self.number))
        except OSError:
            return False

    def write(self, data: bytes) -> bool:
        try:
            return self.is_ours() and os.write(self.number, data) > 0
        except BrokenPipeError:
            self.is_read = False
            return False
        except OSError:  # full
            return False

    def read(self) -> bytes | None:
        """Return what there is; None for nothing yet, and no bytes at the end."""
        if not self.is_ours():
            return b""
        try:
            return os.read(self.number, _LARGEST)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def close(self) -> None:
        if self.is_ours():
            os.close(self.number)
        self.number = -1


def _pipe() -> tuple[_End, _End]:
    read, write = os.pipe()
    return _End(read), _End(write)


class Line:
    """A child's end: the way to the process that reports for it."""

    def __init__(self, end: _End, kinds: Collection[str], apart: Line | None = None) -> None:
        self._end = end
        self.kinds = kinds
        """What the parent takes."""
        self.apart = apart
        """The way for spans, if they have another: a burst of them must leave room here."""
        self._numbers = itertools.count()
        self._dropped = 0

    def send(self, kind: str, *arguments: Any) -> bool:
        """Report; False if the pipe has no room, or nobody reads it."""
        line = json.dumps((kind, *arguments)).encode()
        if len(line) > _LARGEST:
            return False
        if len(line) < select.PIPE_BUF:
            return self._end.write(line + b"\n")
        # In parts, since the lines of several threads, and of the child's children, may mix.
        key = b"%d.%d" % (os.getpid(), next(self._numbers))
        size = select.PIPE_BUF - len(key) - 3
        parts = [line[at : at + size] for at in range(0, len(line), size)]
        marks = (_FIRST, *(_NEXT for _ in parts[1:-1]), _LAST)
        return all(
            self._end.write(b"%b%b %b\n" % (mark, key, part))
            for mark, part in zip(marks, parts, strict=True)
        )

    def count(self, *arguments: Any) -> bool:
        """Report a count; False if nobody reads the pipe. A full pipe loses it."""
        if not self.send("count", *arguments):
            if not self._end.is_read or not self._end.is_ours():
                return False
            self._dropped += 1
            if self._dropped == 1:
                _logger.warning("process %d loses counts: its parent reads too slowly", os.getpid())
        return True

    def descriptors(self) -> list[int]:
        return [self._end.number, *(self.apart.descriptors() if self.apart is not None else ())]

    def close(self) -> None:
        self._end.close()
        if self.apart is not None:
            self.apart.close()


class _Incoming:
    """The parent's end of one child's pipe."""

    def __init__(self, end: _End) -> None:
        self.end = end
        self._rest = b""
        self._parts: dict[bytes, bytes] = {}

    def lines(self) -> list[bytes] | None:
        """Return the reports that have come since; None at the end."""
        found: list[bytes] = []
        while data := self.end.read():
            *lines, self._rest = (self._rest + data).split(b"\n")
            found.extend(whole for line in lines if (whole := self._whole(line)))
        return None if data == b"" and not found else found

    def _whole(self, line: bytes) -> bytes | None:
        mark = line[:1]
        if mark not in (_FIRST, _NEXT, _LAST):
            return line
        key, _, part = line[1:].partition(b" ")
        if mark == _FIRST:  # whatever another process of this number has left
            self._parts[key] = part
            if len(self._parts) > _UNFINISHED:
                del self._parts[next(iter(self._parts))]
            return None
        if key not in self._parts:
            return None
        self._parts[key] += part
        return self._parts.pop(key) if mark == _LAST else None


_GONE = select.POLLNVAL if hasattr(select, "POLLNVAL") else 0


def _ready(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Wait until one of them has something to read, or is closed; not for ever."""
    poll = select.poll()  # unlike an epoll, it has no number that could be closed for us
    for number in numbers:
        poll.register(number, select.POLLIN)
    return poll.poll(_LOOKING_AGAIN * 1000)


class Opened:
    """The pipes for one child, from before the fork on."""

    def __init__(self, relay: Relay, receivers: Receivers) -> None:
        self.relay = relay
        self._receivers = receivers
        self._pipes = [_pipe() for _ in range(2 if relay.spans_apart else 1)]

    def in_parent(self) -> None:
        for _, write in self._pipes:
            write.close()  # the child's end alone is left: its death is the end of the pipe
        self.relay.listen([_Incoming(read) for read, _ in self._pipes])

    def in_child(self) -> Line:
        for read, _ in self._pipes:
            read.close()
        first, *others = (write for _, write in self._pipes)
        kinds = tuple(self._receivers)
        return Line(first, kinds, Line(others[0], kinds) if others else None)


class Relay:
    """What forked children report, on its way into this process's telemetry.

    A report has a kind, and goes to the receiver of that name with the arguments that it was
    sent with. The receivers are asked for at each fork: an SDK may be set up in between.
    """

    def __init__(
        self, receivers: Callable[[], Receivers], patience: float, *, spans_apart: bool = False
    ) -> None:
        """Wait for a fork; `patience` are the seconds that closing may take."""
        self._ask = receivers
        self._receivers: Receivers = {}
        self._patience = patience
        self.spans_apart = spans_apart
        self._told: set[str] = set()
        self._failed = False
        self._start_over()
        _relays.append(self)

    def _start_over(self) -> None:
        # Held for a moment only: a fork waits for it.
        self._lock = threading.Lock()
        # Held while reports are received: whoever exports in there may hang.
        self._receiving = threading.RLock()
        self._thread: threading.Thread | None = None
        self._incoming: list[_Incoming] = []
        self._awake: _End | None = None
        self._wake: _End | None = None
        self._closed = False

    def open(self) -> Opened:
        """Before a fork: open the pipes for its child."""
        self._receivers = {**self._ask(), "tell": self._told.add}
        return Opened(self, self._receivers)

    def listen(self, incoming: list[_Incoming]) -> None:
        """Read what a new child reports."""
        with self._lock:
            if self._closed:
                for one in incoming:
                    one.end.close()
                return
            self._incoming += incoming
            if self._thread is None:
                self._start()
            elif self._wake is not None:
                self._wake.write(b".")

    def _start(self) -> None:
        self._thread = threading.Thread(
            target=self._read, name="otel_queue_bridge.relay", daemon=True
        )
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is shutting down, and starts no thread
            self._thread = None
            self._close_ends()

    def told(self) -> set[str]:
        """Return what children have told since the last call, the dead ones all that they had."""
        self._read_now()
        told = self._told.copy()
        self._told -= told
        return told

    def _read_now(self) -> None:
        # What a dead child has written is in its pipe by now: read it here, whoever else does.
        if self._receiving.acquire(timeout=_READING_LIMIT):
            try:
                for incoming in tuple(self._incoming):
                    self._receive(incoming)
            finally:
                self._receiving.release()

    def close(self) -> None:
        """Read what the children have left, and end."""
        if self not in _relays:
            return
        _relays.remove(self)
        self._read_now()
        thread, wake = self._thread, self._wake
        self._closed = True
        if wake is not None:
            wake.write(b".")
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._patience)

    def leave(self) -> None:
        """In a child: leave the reading to the parent, so that its end is seen there."""
        self._close_ends()
        self._start_over()

    def _close_ends(self) -> None:
        for end in (self._awake, self._wake, *(incoming.end for incoming in self._incoming)):
            if end is not None:
                end.close()
        self._awake = self._wake = None
        self._incoming.clear()

    def _read(self) -> None:
        while ends := self._ends():
            for number, event in _ready(ends):
                incoming = ends[number]
                if incoming is None:
                    if self._awake is not None and (event & _GONE or not self._awake.read()):
                        self._awake = None  # another is made
                    continue
                with self._receiving:
                    ended = not self._receive(incoming)
                if ended:
                    with self._lock:
                        incoming.end.close()
                        self._incoming.remove(incoming)

    def _ends(self) -> dict[int, _Incoming | None]:
        """Return all numbers to wait for; none if the thread is to end."""
        with self._lock:
            # What other code has closed has no end to wait for, and its number is another's.
            self._incoming = [one for one in self._incoming if one.end.is_ours()]
            if self._closed or not self._incoming:
                self._close_ends()
                self._thread = None
                return {}
            ends: dict[int, _Incoming | None] = {one.end.number: one for one in self._incoming}
            with suppress(OSError):  # no number is left: new children are then read late
                if self._awake is None or not self._awake.is_ours():
                    self._awake, self._wake = _pipe()
                ends[self._awake.number] = None
            return ends

    def _receive(self, incoming: _Incoming) -> bool:
        """Pass on what one child has reported by now; False at the end of its pipe."""
        lines = incoming.lines()
        for line in lines or ():
            try:
                kind, *arguments = json.loads(line)
                self._receivers[kind](*arguments)
            except Exception as error:  # noqa: BLE001, PERF203 - one bad record must not end the rest
                if not self._failed:
                    self._failed = True
                    _logger.warning("%s in a record of a child", type(error).__name__)
        return lines is not None


_relays: list[Relay] = []
"""Those of this process that are not closed."""


def opened() -> Opened | None:
    """Before a fork: open the child's way to this process, if somebody reports for children."""
    with suppress(OSError):  # no number is left for a pipe: the child is on its own
        return _relays[-1].open() if _relays else None
    return None


def leave_all() -> None:
    """In a child: the relays of the parent are not ours."""
    for relay in _relays:
        relay.leave()
    _relays.clear()
