"""A job in the hands of a worker, until its end is reported by whichever process."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otel_queue_bridge.adapter import Operation, Relay, Task


class HandOver:
    """What the worker knows and the work-horse inherits: where the trace goes on."""

    def __init__(self, task: Task, dispatch: Operation, submitted: dict[str, Any]) -> None:
        self.submitted = submitted
        self.carrier = dict(submitted)
        # So that this process can report what one that was killed cannot.
        dispatch.inject(self.carrier, once=True)
        task.carrier = self.carrier
        self.task = task
        self.started: int | None = None
        """Of the hand-over, in nanoseconds since the epoch."""
        self.cause = ""
        """What killed the work-horse, if anything did."""
        self.relay: Relay | None = None
        """Where the work-horse reports, once there is one."""
        self.spawned = False
        self.over = False
        """Whether its end has been reported."""
        self._dispatch = dispatch
        self._pid = os.getpid()
        self._told: set[str] = set()

    @staticmethod
    def of(job: Any) -> HandOver | None:
        found: HandOver | None = vars(job).get("otel_hand_over")
        return found

    @property
    def here(self) -> bool:
        """Whether this is the worker, and not the work-horse's copy."""
        return self._pid == os.getpid()

    def hand_over(self) -> int:
        if self.started is None:
            self.started = time.time_ns()
            self._dispatch.end()
        return self.started

    def reported(self) -> bool:
        """Tell whether the end was reported, by whichever process."""
        if self.relay is not None and not self.over:
            self._told.update(self.relay.told())
            self.over = self.task.id in self._told
        return self.over
