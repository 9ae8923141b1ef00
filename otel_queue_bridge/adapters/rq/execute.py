"""Execute: the job in the work-horse, in a simple worker, or in the very call that enqueues it."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

from otel_queue_bridge.adapters.rq import ending
from otel_queue_bridge.adapters.rq.attempt import Attempt
from otel_queue_bridge.adapters.rq.carrier import carriers
from otel_queue_bridge.adapters.rq.reading import arguments, read

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder

VARIABLE = "RQ_OTEL_CARRIER"
"""Brings the dispatch into a work-horse that is spawned and inherits no object of the worker's."""


def execute(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    worker, job = call.instance, call.argument(0, "job")
    if ending.of(job) is not None:
        return  # a subclass calling its parent
    attempt = Attempt.of(job)
    spawned = attempt is None and worker.is_horse
    if worker.is_horse:
        recorder.relay_spans()
    if attempt is not None:
        attempt.hand_over()
        attempt.over = True
        task = attempt.task
    else:
        task = read(job, call.argument(1, "queue").name, worker.connection, worker.name)
        if spawned:
            handed_over = json.loads(os.environ.pop(VARIABLE, "{}"))
            task.carrier = (handed_over, *carriers(job))
    job.otel_ending = end = ending.Ending()
    task.arguments = lambda: arguments(job)
    # Who spawned this process counts its outcome, from the job's status.
    with recorder.execute(task, measured=not spawned) as operation:
        yield
        # A work-horse that RQ itself cannot bring to its end is one of those that died.
        died = call.error is not None and worker.is_horse
        if died:
            operation.abandon()
        else:
            operation.settle(end.outcome(call.error))
    del job.otel_ending
    if worker.is_horse:
        if not died:
            recorder.tell(job.id)
        recorder.flush(metrics=spawned)


def execute_sync(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    queue, job = call.instance, call.argument(0, "job")
    task = read(job, queue.name, queue.connection)
    task.carrier = task.server = None
    task.arguments = lambda: arguments(job)
    job.otel_ending = end = ending.Ending()
    with recorder.execute(task, measured=True) as operation:
        yield
        operation.settle(end.outcome(call.error))
    del job.otel_ending


def read_exception(call: Call, _: Recorder) -> None:
    end = ending.of(call.argument(0, "job"))
    if end is not None:
        end.error = next((one for one in call.args if isinstance(one, BaseException)), None)


def read_error(call: Call, _: Recorder) -> None:
    end = ending.of(call.instance)
    if end is not None and end.error is None:
        end.error = sys.exc_info()[1]
