"""The pipe from forked children to the process that reports for them.

A child's own counts would start a new time series for each child, and would die with it; its
spans would need a connection of its own. What it has to report goes down one pipe, opened before
the fork, as lines that the kernel writes whole or not at all.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import select
import threading
import time
from typing import TYPE_CHECKING, Any

from otel_queue_bridge import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_logger = logging.getLogger("otel_queue_bridge")

_LARGEST = 64 * 1024
"""Bytes of one report: what a pipe of Linux holds."""
_UNFINISHED = 16
"""Reports of which not all parts have come, at most; a child may be killed between two."""
_HEARING_LIMIT = 1.0
"""Seconds to read what the dead have left; the pipe is read all the time, so it is little."""

_relays: list[Relay] = []
"""The open ones of this process, and in a child those of its parent."""

parent: Relay | None = None
"""In a forked child: the way to the process that reports for it."""


class Relay:
    """One pipe and the thread that reads it.

    A report has a kind, and goes to the function of that name with the arguments that it was
    sent with.
    """

    def __init__(
        self,
        receivers: Mapping[str, Callable[..., None]],
        patience: float,
        beside: Relay | None = None,
    ) -> None:
        """Open it; `patience` are the seconds that closing may take.

        Spans go `beside`, if there is another: a burst of them must leave room here.
        """
        self._patience = patience
        self.beside = beside
        self._receivers: dict[str, Callable[..., None]] = {
            **receivers,
            "tell": self._hear,
            "mark": self._reach,
        }
        self._read_end, self._write_end = os.pipe()
        # A full pipe must not hold up a task.
        os.set_blocking(self._write_end, False)
        self._told: set[str] = set()
        self._parts: dict[bytes, bytes] = {}
        self._reached = threading.Event()
        self._marks = 0
        self._numbers = itertools.count()
        self._dropped = 0
        self._failed = False
        self._thread = threading.Thread(
            target=self._read, name="otel_queue_bridge.relay", daemon=True
        )
        self._thread.start()
        _relays.append(self)

    def send(self, kind: str, *arguments: Any) -> bool:
        """From a child: report; False if the pipe has no room, or nobody reads it."""
        line = json.dumps((kind, *arguments)).encode()
        if len(line) > _LARGEST:
            return False
        if len(line) < select.PIPE_BUF:
            return self._write(line)
        # In parts, since the lines of several children, or threads, may mix.
        key = b"%d.%d" % (os.getpid(), next(self._numbers))
        size = select.PIPE_BUF - len(key) - 3
        parts = [line[at : at + size] for at in range(0, len(line), size)]
        return all(
            self._write(b"%c%b %b" % (b"=" if part is parts[-1] else b"+", key, part))
            for part in parts
        )

    @property
    def counts(self) -> bool:
        """Whether there is anything that records counts."""
        return "count" in self._receivers

    def count(self, *arguments: Any) -> None:
        """From a child: report what is to be counted; what has no room is lost."""
        if not self.send("count", *arguments):
            self._dropped += 1
            if self._dropped == 1:
                _logger.warning("process %d loses counts: its parent reads too slowly", os.getpid())

    def told(self) -> set[str]:
        """Return what children have told since; those that are dead by now have been heard out."""
        deadline = time.monotonic() + _HEARING_LIMIT
        self._marks += 1
        self._reached.clear()
        while self in _relays and not self._write(b'["mark", %d]' % self._marks):
            time.sleep(0.01)
            if time.monotonic() > deadline:
                break
        if self in _relays:
            self._reached.wait(max(0.0, deadline - time.monotonic()))
        if self.beside is not None:
            self.beside.told()
        told, self._told = self._told, set()
        return told

    def close(self) -> None:
        """Read what the children have left."""
        if self.beside is not None:
            self.beside.close()
        if self in _relays:
            _relays.remove(self)
            # The number is soon another file's: forget it, a forked copy may still send.
            end, self._write_end = self._write_end, -1
            os.close(end)  # with those of the children, who are gone: the end
            self._thread.join(self._patience)

    def enter_child(self) -> None:
        """In a child: leave the reading to the parent, so that its end is seen."""
        if self._read_end >= 0:
            os.close(self._read_end)
            self._read_end = -1

    def _write(self, line: bytes) -> bool:
        try:
            return os.write(self._write_end, line + b"\n") > 0
        except OSError:  # full, closed in this process, or without a reader
            return False

    def _read(self) -> None:
        rest = b""
        # No file object: a child has a copy of it, and must be able to close the number.
        while found := os.read(self._read_end, _LARGEST):
            *lines, rest = (rest + found).split(b"\n")
            for line in lines:
                try:
                    self._receive(line)
                except Exception as error:  # noqa: BLE001, PERF203 - one bad record must not end the rest
                    if not self._failed:
                        self._failed = True
                        _logger.warning("%s in a record of a child", type(error).__name__)
        os.close(self._read_end)

    def _receive(self, line: bytes) -> None:
        if line[:1] in b"+=":
            key, _, part = line[1:].partition(b" ")
            whole = self._parts.pop(key, b"") + part
            if line[:1] == b"+":
                self._parts[key] = whole
                if len(self._parts) > _UNFINISHED:
                    del self._parts[next(iter(self._parts))]
                return
            line = whole
        kind, *arguments = json.loads(line)
        self._receivers[kind](*arguments)

    def _hear(self, message: str) -> None:
        self._told.add(message)

    def _reach(self, mark: int) -> None:
        if mark == self._marks:  # and not one that was given up
            self._reached.set()


def enter_child() -> None:
    """In a forked child: let the parent report, if it has opened a pipe for that."""
    global parent  # noqa: PLW0603 - of the process, as the pipe itself
    for relay in _relays:
        relay.enter_child()
    parent = _relays[-1] if _relays else None
    metrics.forward = parent.count if parent and parent.counts else None
