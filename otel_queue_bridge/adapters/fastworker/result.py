"""A result while it is made: it shows the exception, which FastWorker drops, and whose it is."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from otel_queue_bridge.adapter import Outcome
from otel_queue_bridge.adapters.fastworker import execute, traffic

if TYPE_CHECKING:
    from otel_queue_bridge.adapter import Call, Recorder


def create(call: Call, _: Recorder) -> None:
    task_id = call.kwargs.get("task_id")
    run, sending = execute.current.get(), traffic.current.get()
    if run is not None and run.task_id == task_id:
        # Made in the handler of the exception, of which the result has only the text.
        run.error = sys.exc_info()[1]
    if sending is not None and sending.answered:
        # A control plane has one socket for each priority, and replies to whoever asked last.
        crossed = sending.task_id != task_id
        sending.close(Outcome("failure", error_type="crossed_reply") if crossed else None)
