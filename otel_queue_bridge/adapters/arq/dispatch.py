"""Dispatch: from a worker asking for a job that it has claimed, to the start of its body."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapters.arq.carrier import carried, fetch, forget, joining, kept
from otel_queue_bridge.adapters.arq.execute import execute
from otel_queue_bridge.adapters.arq.run import Run, current

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder


def run_job(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    run = Run(call.instance, call.argument(0, "job_id"), call.argument(1, "score"))

    def found(answer: Any, others: list[Any]) -> None:
        run.kept, run.attempt = answer, others[1]

    token, part = current.set(run), joining.set(fetch(run.job_id, found))
    with recorder.not_polling():
        yield
        run.end(call.error)
    joining.reset(part)
    current.reset(token)


def deserialize(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    run = current.get()
    if run is None:
        return
    loads = call.kwargs.get("deserializer") or pickle.loads
    found: dict[str, Any] | None = None

    def deserializer(raw: bytes) -> Any:
        nonlocal found
        job = loads(raw)
        found = carried(job)
        return job

    call.kwargs = {**call.kwargs, "deserializer": deserializer}
    yield
    if call.error is None:
        run.job = call.result
        run.enqueued = run.job[4]
        run.note_attempt(run.job[3])
        function = run.worker.functions.get(run.job[0])
        if function is not None:
            # Here, and not where the worker is made: there may be more of them by now.
            recorder.patch(function, "coroutine", execute)
    run.open_dispatch(recorder, kept(run.kept, run.enqueued) or found)


def finish_failed_job(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """End the dispatch of a job that does not run."""
    run = current.get()
    if run is None:
        return
    outcome, run.finished = run.refusal(), True
    dispatch = run.dispatch or run.open_dispatch(recorder, kept(run.kept))
    dispatch.settle(outcome)
    if run.kept is not None:
        joining.set(forget(run.job_id))
    yield
    if call.error is not None:
        run.settle_unfinished(call.error)
