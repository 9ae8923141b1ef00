"""A job that a worker handed over, until one of the processes has reported its end."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_queue_bridge.adapter import Operation, Relay, Task


class HandOver:
    """What the worker knows of one attempt; the work-horse inherits it."""

    def __init__(self, task: Task, dispatch: Operation, submitted: dict[str, Any]) -> None:
        self.submitted = submitted
        self.carrier = dict(submitted)
        # The worker must be able to report the execute of a work-horse that was killed.
        dispatch.inject(self.carrier, once=True)
        task.carrier = self.carrier
        self.task = task
        self.started: int | None = None
        """When the job was handed over, in nanoseconds since the epoch."""
        self.cause = ""
        """What killed the work-horse, if anything did."""
        self.relay: Relay | None = None
        """Receives the work-horse's reports, once there is one."""
        self.spawned = False
        self.over = False
        """Whether the end of the attempt has been reported."""
        self._dispatch = dispatch
        self._pid = os.getpid()
        self._reported: set[str] = set()

    @staticmethod
    def of(job: Any) -> HandOver | None:
        found: HandOver | None = vars(job).get("otel_hand_over")
        return found

    @property
    def here(self) -> bool:
        """Whether this is the worker, and not the work-horse's copy."""
        return self._pid == os.getpid()

    def complete(self) -> int:
        """End the dispatch, unless that is done; return when the job was handed over."""
        if self.started is None:
            self.started = time.time_ns()
            self._dispatch.end()
        return self.started

    def reported(self) -> bool:
        """Tell whether any process has reported the end of the attempt."""
        if self.relay is not None and not self.over:
            self._reported.update(self.relay.told())
            self.over = self.task.id in self._reported
        return self.over
