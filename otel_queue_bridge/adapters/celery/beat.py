"""Beat as a child of the worker (`worker -B`): the worker exports what it submits.

It is ended by SIGTERM, for which it keeps the system's default: no code of its own runs then
(`celery.beat._Process.stop`, Celery 5.7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_queue_bridge.adapter import Call, Recorder


def start(call: Call, recorder: Recorder) -> None:
    recorder.relay(call.instance)


def keep_line(call: Call, recorder: Recorder) -> None:
    """Leave our pipe open: `_Process.run` closes all that it has inherited."""
    ours = recorder.descriptors()
    if ours:
        call.args, call.kwargs = ([*(call.argument(0, "keep") or ()), *ours],), {}
        recorder.relay_spans()
