"""Execute: the job in the work-horse, in a simple worker, or in the very call that enqueues it."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from otel_queue_bridge.adapters.rq import ending
from otel_queue_bridge.adapters.rq.attempt import HandOver
from otel_queue_bridge.adapters.rq.reading import arguments, task_of

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder

VARIABLE = "RQ_OTEL_CARRIER"
"""Brings the dispatch into a work-horse that is spawned and inherits no object of the worker's."""


def execute(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    worker, job = call.instance, call.argument(0, "job")
    attempt = HandOver.of(job)
    spawned = attempt is None and worker.is_horse
    if worker.is_horse:
        recorder.relay_spans()
    if attempt is not None:
        attempt.hand_over()
        attempt.over = True
        task = attempt.task
    else:
        task = task_of(job, call.argument(1, "queue").name, worker.connection, worker.name)
        if spawned:
            task.other_carriers = (task.carrier, *task.other_carriers)
            task.carrier = json.loads(os.environ.pop(VARIABLE, "{}"))
    job.otel_ending = end = ending.Ending()
    task.arguments = lambda: arguments(job)
    # Who spawned this process counts its outcome, from the job's status.
    with recorder.execute(task, measured=not spawned) as operation:
        yield
        # A work-horse that RQ itself cannot bring to its end is one of those that died.
        died = call.error is not None and worker.is_horse
        if died:
            operation.disown()
        else:
            operation.settle(end.outcome(call.error))
    del job.otel_ending
    if worker.is_horse:
        if not died:
            recorder.tell(job.id)
        recorder.flush(metrics=spawned)


def execute_sync(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    queue, job = call.instance, call.argument(0, "job")
    task = task_of(job, queue.name, queue.connection)
    task.carrier = task.server = None
    task.arguments = lambda: arguments(job)
    job.otel_ending = end = ending.Ending()
    with recorder.execute(task, measured=True) as operation:
        yield
        operation.settle(end.outcome(call.error))
    del job.otel_ending


def note_exception(call: Call, _: Recorder) -> None:
    end = ending.of(call.argument(0, "job"))
    if end is not None:
        end.error = next((one for one in call.args if isinstance(one, BaseException)), None)


def note_error(call: Call, _: Recorder) -> None:
    end = ending.of(call.instance)
    if end is not None and end.error is None:
        end.error = sys.exc_info()[1]
