"""The worker: its gauges, its dispatches, and the outcomes of the jobs that it handed over."""

from __future__ import annotations

import json
import os
import re
import time
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import CANCELLED, RETRY, SUCCESS, Call, Outcome, Reading, Recorder
from otel_queue_bridge.adapters.rq import execute, lost
from otel_queue_bridge.adapters.rq.carrier import carrier, next_attempt
from otel_queue_bridge.adapters.rq.hand_over import HandOver
from otel_queue_bridge.adapters.rq.queues import readings
from otel_queue_bridge.adapters.rq.reading import run_of, seconds

if TYPE_CHECKING:
    from collections.abc import Generator

_TRACEBACK = "Traceback (most recent call last):\n"

_BY_STATUS = {
    "finished": SUCCESS,
    "failed": Outcome("failure"),
    "queued": RETRY,
    "scheduled": RETRY,
    "rate_limited": RETRY,
    "canceled": CANCELLED,
}
"""The status in Redis after a work-horse that could not report, and what it means."""


def _became(job: Any, hand_over: HandOver) -> Outcome | None:
    """Return how this attempt ended, according to Redis; None if it has not ended."""
    if carrier(job) != hand_over.submitted:  # submitted again, by a retry or a `Repeat`
        return RETRY if next_attempt(job) > (hand_over.task.attempt or 1) else SUCCESS
    return _BY_STATUS.get(job.get_status(refresh=False))


def _raised(job: Any) -> str | None:
    """Name the exception whose traceback RQ keeps; None if its message may hold another one."""
    result = job.latest_result()  # `Job.exc_info` is deprecated
    kept = getattr(result, "exc_string", None)
    first, *others = str(kept or "").split(_TRACEBACK)[1:] or [""]
    raised = next((line for line in first.splitlines() if not line.startswith(" ")), "")
    name = raised.partition(":")[0]
    return name if not others and re.fullmatch(r"[\w.<>]+", name) else None


def work(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    worker = call.instance
    recorder.watch_workers(_places, worker)
    recorder.watch_depth(readings, worker)
    yield
    recorder.close(worker)
    vars(worker).pop("otel_relay", None)
    # A worker of `rq worker-pool` runs no atexit handlers. Elsewhere the SDK's own handler exports,
    # and a second export would wait once more for a collector that hangs.
    if parent_process() is not None:
        recorder.flush(metrics=True)


def run(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    worker, job = call.instance, call.argument(0, "job")
    task = run_of(job, call.argument(1, "queue").name, worker.connection, worker.name)
    hand_over = HandOver(task, recorder.dispatch(task), carrier(job))
    job.otel_hand_over = hand_over
    worker.otel_hand_over = hand_over
    yield
    vars(worker).pop("otel_hand_over", None)
    hand_over.complete()
    # RQ 2.0 raises where a killed job is gone (`Job.get_status`, in `monitor_work_horse`).
    ended = call.error is None or bool(hand_over.cause)
    if hand_over.relay is not None and ended and not hand_over.reported():
        kept = job.get_result_ttl(default_ttl=worker.default_result_ttl) != 0
        _conclude(hand_over, job, recorder, kept=kept)
    del job.otel_hand_over


def fork(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    worker, hand_over = call.instance, HandOver.of(call.argument(0, "job"))
    if hand_over is None:
        return
    owner, relay = vars(worker).get("otel_relay", (None, None))
    if owner is not recorder:  # the first job, or the first since we were switched on again
        relay = recorder.relay(worker)
        worker.otel_relay = recorder, relay
    hand_over.relay = relay
    hand_over.spawned = any(kind.__name__ == "SpawnWorker" for kind in type(worker).__mro__)
    hand_over.complete()
    if hand_over.spawned:
        os.environ[execute.VARIABLE] = json.dumps(hand_over.carrier)
        yield
        os.environ.pop(execute.VARIABLE, None)


def _conclude(hand_over: HandOver, job: Any, recorder: Recorder, *, kept: bool) -> None:
    """Report the outcome according to Redis, unless the job is still under way."""
    outcome: Outcome | None
    try:
        ended = type(job).fetch(job.id, job.connection, job.serializer)
    except Exception as error:  # we must not import its class
        if type(error).__name__ != "NoSuchJobError":
            raise
        ended = None
        if hand_over.cause or kept:  # RQ deletes what has failed if its failure_ttl is 0
            outcome = Outcome("failure", error_type=hand_over.cause or None)
        else:
            outcome = SUCCESS
    else:
        outcome = _became(ended, hand_over)
    if outcome is None:
        return
    started = hand_over.complete() / 1e9
    now = time.time()
    if hand_over.spawned and ended is not None and outcome.status == "failure":
        outcome = outcome._replace(error_type=_raised(ended))
    if not hand_over.spawned:
        lost.write(hand_over.task, outcome, started, recorder)
    elif ended is not None and ended.started_at and ended.ended_at:
        started, now = seconds(ended.started_at), seconds(ended.ended_at)
    recorder.attempted(hand_over.task, outcome, started=started, duration=max(0.0, now - started))


def _places(worker: Any) -> list[Reading]:
    return [Reading(1, busy=int("otel_hand_over" in vars(worker)))]


METHODS = {
    "work": work,
    "execute_job": run,
    "fork_work_horse": fork,
    "perform_job": execute.execute,
    "handle_exception": execute.note_exception,
    "handle_job_failure": lost.fail,
    "handle_work_horse_killed": lost.note_cause,
    "wait_for_horse": lost.note_exit,
}
"""The methods to advise on every worker class."""

POLLING = (
    "register_birth",
    "register_death",
    "set_state",
    "set_shutdown_requested_date",
    "check_for_suspension",
    "dequeue_job_and_maintain_ttl",
    "run_maintenance_tasks",
    "heartbeat",
    "maintain_heartbeats",
    "prepare_execution",
)
"""What a worker does by itself; nothing in there runs a task."""

SCHEDULING = (
    "register_birth",
    "register_death",
    "acquire_locks",
    "release_locks",
    "heartbeat",
    "enqueue_scheduled_jobs",
)
"""The same for a scheduler: the submits were before."""
