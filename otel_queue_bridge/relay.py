"""The pipe from forked children to the process that records for them.

A child's own counts would start a new time series for each child, and would die with it. What
it has to report goes down one pipe, opened before the fork, as lines that the kernel writes
whole or not at all.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
from typing import TYPE_CHECKING, Any

from otel_queue_bridge import metrics

if TYPE_CHECKING:
    from collections.abc import Callable

_logger = logging.getLogger("otel_queue_bridge")

_relays: list[Relay] = []
"""The open ones of this process."""


class Relay:
    """One pipe and the thread that reads it; `record` gets the arguments of each line."""

    def __init__(self, record: Callable[..., None]) -> None:
        self._record = record
        self._read_end, self._write_end = os.pipe()
        # A full pipe must not hold up a task.
        os.set_blocking(self._write_end, False)
        self._dropped = 0
        self._failed = False
        self._thread = threading.Thread(
            target=self._read, name="otel_queue_bridge.relay", daemon=True
        )
        self._thread.start()
        _relays.append(self)

    def send(self, *arguments: Any) -> None:
        """From a child: report, or drop what the pipe has no room for."""
        line = json.dumps(arguments).encode() + b"\n"
        try:
            lost = len(line) > select.PIPE_BUF or os.write(self._write_end, line) == 0
        except OSError:  # full, or closed in this process
            lost = True
        if lost:
            self._dropped += 1
            if self._dropped == 1:
                _logger.warning("process %d loses counts: its parent reads too slowly", os.getpid())

    def close(self, timeout: float) -> None:
        """Read what the children have left, for at most `timeout` seconds."""
        if self in _relays:
            _relays.remove(self)
            # The number is soon another file's: forget it, a forked copy may still send.
            end, self._write_end = self._write_end, -1
            os.close(end)  # with those of the children, who are gone: the end
            self._thread.join(timeout)

    def _read(self) -> None:
        with os.fdopen(self._read_end, "rb") as pipe:
            for line in pipe:
                try:
                    name, unit, description, attributes, value = json.loads(line)
                    self._record(name, unit, description, tuple(map(tuple, attributes)), value)
                except Exception as error:  # noqa: BLE001, PERF203 - one bad record must not end the rest
                    if not self._failed:
                        self._failed = True
                        _logger.warning("%s in a record of a child", type(error).__name__)


def enter_child() -> None:
    """In a forked child: let the parent record, if it has opened a pipe for that."""
    metrics.forward = _relays[-1].send if _relays else None
