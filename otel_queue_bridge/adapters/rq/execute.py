"""Execute: the job in the work-horse, in a simple worker, or inside the call that enqueues it."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from otel_queue_bridge.adapters.rq.carrier import fetch
from otel_queue_bridge.adapters.rq.ending import Ending
from otel_queue_bridge.adapters.rq.hand_over import HandOver
from otel_queue_bridge.adapters.rq.reading import arguments, run_of, task_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder

VARIABLE = "RQ_OTEL_CARRIER"
"""Carries the dispatch into a spawned work-horse, which inherits none of the worker's objects."""


def execute(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    worker, job = call.instance, call.argument(0, "job")
    hand_over = HandOver.of(job)
    spawned = hand_over is None and VARIABLE in os.environ
    if worker.is_horse:
        recorder.relay_spans()
    if hand_over is not None:
        hand_over.complete()
        hand_over.over = True
        task = hand_over.task
    else:
        alone = worker.is_horse and not spawned  # the worker has no SDK, or is not instrumented
        if alone:
            with recorder.suppressed():
                fetch(job)
        task = run_of(job, call.argument(1, "queue").name, worker.connection, worker.name)
        if spawned:
            task.other_carriers = (task.carrier, *task.other_carriers)
            task.carrier = json.loads(os.environ.pop(VARIABLE))
        if alone:
            recorder.dispatched(task)
    job.otel_ending = ending = Ending()
    task.arguments = lambda: arguments(job, running=True)
    # If this process was spawned, the worker counts its outcome by the job's status.
    with recorder.execute(task, measured=not spawned) as operation:
        yield
        # An error that RQ itself lets out ends the work-horse: the worker treats it as killed.
        died = call.error is not None and worker.is_horse
        if died:
            operation.disown()
        else:
            operation.settle(ending.outcome(call.error))
    del job.otel_ending
    if worker.is_horse:
        if not died:
            recorder.tell(job.id)
        recorder.flush(metrics=spawned)


def execute_sync(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    queue, job = call.instance, call.argument(0, "job")
    task = task_of(job, queue.name, queue.connection)
    task.carrier = task.server = task.transport = None
    task.arguments = lambda: arguments(job, running=True)
    job.otel_ending = ending = Ending()
    with recorder.execute(task, measured=True) as operation:
        yield
        operation.settle(ending.outcome(call.error))
    del job.otel_ending


def note_exception(call: Call, _: Recorder) -> None:
    ending = Ending.of(call.argument(0, "job"))
    if ending is not None:
        ending.error = next((one for one in call.args if isinstance(one, BaseException)), None)


def note_error(call: Call, _: Recorder) -> None:
    ending = Ending.of(call.instance)
    if ending is not None and ending.error is None:
        ending.error = sys.exc_info()[1]
