"""The creation of a result shows whose it is, and the exception, which FastWorker then drops."""

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
        # FastWorker makes it while it handles the exception, but keeps only the text.
        run.error = sys.exc_info()[1]
    if sending is not None and sending.answered:
        # A control plane has one socket per priority, and replies to whoever asked last.
        crossed = sending.task_id != task_id
        sending.close(Outcome("failure", error_type="crossed_reply") if crossed else None)
