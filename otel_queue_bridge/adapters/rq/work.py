"""The worker: its gauges, its dispatches, and the outcome of what it handed over."""

from __future__ import annotations

import json
import os
import re
import time
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import CANCELLED, RETRY, SUCCESS, Call, Outcome, Reading, Recorder
from otel_queue_bridge.adapters.rq import execute, lost, submit
from otel_queue_bridge.adapters.rq.attempt import HandOver
from otel_queue_bridge.adapters.rq.carrier import attempt as number
from otel_queue_bridge.adapters.rq.carrier import carrier
from otel_queue_bridge.adapters.rq.reading import depths, seconds, task_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_TRACEBACK = "Traceback (most recent call last):\n"

_BY_STATUS = {
    "finished": SUCCESS,
    "failed": Outcome("failure"),
    "queued": RETRY,
    "scheduled": RETRY,
    "canceled": CANCELLED,
}
"""What a work-horse that could not report itself has left in Redis."""


def _became(job: Any, attempt: HandOver) -> Outcome | None:
    """Return how this attempt ended, by what RQ has noted; None if it has not."""
    if carrier(job) != attempt.submitted:  # on its way again, or in the hands of the next worker
        return RETRY if number(job) > (attempt.task.attempt or 1) else SUCCESS  # of a `Repeat`
    return _BY_STATUS.get(job.get_status(refresh=False))


def _raised(job: Any) -> str | None:
    """Name the exception whose traceback RQ keeps; a second one may be part of its message."""
    first, *others = str(job.exc_info or "").split(_TRACEBACK)[1:] or [""]
    raised = next((line for line in first.splitlines() if not line.startswith(" ")), "")
    name = raised.partition(":")[0]
    return name if not others and re.fullmatch(r"[\w.<>]+", name) else None


def work(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    worker = call.instance
    recorder.watch_workers(lambda _: [Reading(1)], worker)
    recorder.watch_depth(_depths, worker)
    yield
    recorder.close(worker)
    vars(worker).pop("otel_relay", None)
    # A worker of `rq worker-pool` runs no atexit handlers; elsewhere the SDK has one, and both
    # together would wait twice for a collector that hangs.
    if parent_process() is not None:
        recorder.flush(metrics=True)


def run(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    worker, job = call.instance, call.argument(0, "job")
    task = task_of(job, call.argument(1, "queue").name, worker.connection, worker.name)
    attempt = HandOver(task, recorder.dispatch(task), carrier(job))
    job.otel_hand_over = attempt
    yield
    attempt.hand_over()
    if attempt.relay is not None and call.error is None and not attempt.reported():
        _conclude(attempt, job, recorder)
    del job.otel_hand_over


def fork(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    worker, attempt = call.instance, HandOver.of(call.argument(0, "job"))
    if attempt is None:
        return
    if "otel_relay" not in vars(worker):
        worker.otel_relay = recorder.relay(worker, spans_apart=True)
    attempt.relay = worker.otel_relay
    attempt.spawned = any(kind.__name__ == "SpawnWorker" for kind in type(worker).__mro__)
    attempt.hand_over()
    if attempt.spawned:
        os.environ[execute.VARIABLE] = json.dumps(attempt.carrier)
        yield
        os.environ.pop(execute.VARIABLE, None)


def _conclude(attempt: HandOver, job: Any, recorder: Recorder) -> None:
    """Take the outcome from what RQ has noted; from a job still under way there is none."""
    outcome: Outcome | None = SUCCESS
    try:
        ended = type(job).fetch(job.id, job.connection, job.serializer)
    except Exception as error:  # of a module that we must not import
        if type(error).__name__ != "NoSuchJobError":
            raise
        ended = None  # finished, with a result_ttl of 0
    else:
        outcome = _became(ended, attempt)
    if outcome is None:
        return
    started = attempt.hand_over() / 1e9
    now = time.time()
    if attempt.spawned and ended is not None and outcome.status == "failure":
        outcome = outcome._replace(error_type=_raised(ended))
    if not attempt.spawned:
        lost.write(attempt.task, outcome, started, recorder)
    elif ended is not None and ended.started_at and ended.ended_at:
        started, now = seconds(ended.started_at), seconds(ended.ended_at)
    recorder.attempted(attempt.task, outcome, started=started, duration=max(0.0, now - started))


def _depths(worker: Any) -> Iterator[Reading]:
    return (Reading(*found) for found in depths(worker.connection, worker.queues))


METHODS = {
    "work": work,
    "execute_job": run,
    "fork_work_horse": fork,
    "perform_job": execute.execute,
    "handle_exception": execute.note_exception,
    "handle_job_retry": submit.retry_returned,
    "handle_job_failure": lost.fail,
    "handle_work_horse_killed": lost.note_cause,
}
"""What to advise on every class of workers."""
