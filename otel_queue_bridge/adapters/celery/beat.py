"""Beat: which entry of the schedule it submits, and how that is exported.

As a child of the worker (`worker -B`) it closes all files that it has inherited
(`celery.beat._Process.run`, Celery 5.7), those of gRPC included: with that exporter it could export
nothing. So the worker exports what it submits.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder

entry: ContextVar[str | None] = ContextVar("otel_queue_bridge.celery.entry", default=None)
"""Name of the schedule's entry that is being submitted."""


def submit(call: Call, _: Recorder) -> Generator[None, None, None]:
    token = entry.set(str(call.argument(0, "entry").name))
    yield
    entry.reset(token)


def start(call: Call, recorder: Recorder) -> None:
    recorder.relay(call.instance)


def keep_line(call: Call, recorder: Recorder) -> None:
    """Leave our pipe open."""
    ours = recorder.descriptors()
    if ours:
        call.args, call.kwargs = ([*(call.argument(0, "keep") or ()), *ours],), {}
        recorder.relay_spans(always=True)
