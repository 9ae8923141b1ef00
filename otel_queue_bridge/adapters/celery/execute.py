"""Execute: the run itself, in whichever pool.

`build_tracer` makes the function that runs one task. The children of prefork look it up late,
`Consumer` imported it by name (Celery 5.7).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from otel_queue_bridge.adapter import Arguments
from otel_queue_bridge.adapters.celery.outcome import outcome
from otel_queue_bridge.adapters.celery.reading import task_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder


def execute(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    assert call.maker is not None  # noqa: S101 - a factory's product
    name, task = call.maker.argument(0, "name"), call.maker.argument(1, "task")
    request = call.argument(3, "request") or {}
    run = task_of(task.app, name, call.argument(0, "uuid"), request)
    args, kwargs = call.argument(1, "args"), call.argument(2, "kwargs")
    run.arguments = lambda: Arguments(task.run, args, kwargs)
    with recorder.execute(run, measured=bool(request.get("is_eager"))) as operation:
        yield
        if isinstance(call.error, SystemExit) and _in_pool_child():
            operation.disown()  # terminated from outside: the parent knows why, and reports it
        else:
            operation.settle(outcome(task, call))


def flush(_: Call, recorder: Recorder) -> Generator[None, None, None]:
    # Pool children end by os._exit, which runs no atexit handler.
    yield
    recorder.flush()


def _in_pool_child() -> bool:
    process = sys.modules.get("billiard.process")
    return process is not None and bool(process.current_process()._identity)  # noqa: SLF001
