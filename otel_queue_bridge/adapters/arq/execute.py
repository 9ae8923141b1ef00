"""Execute: the body in its asyncio task, until ARQ has noted how it ended."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from otel_queue_bridge.adapters.arq.carrier import forget, joining, keep
from otel_queue_bridge.adapters.arq.run import current

if TYPE_CHECKING:
    from collections.abc import Generator

    from otel_queue_bridge.adapter import Call, Recorder
    from otel_queue_bridge.adapters.arq.run import Run


def execute(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    run = current.get()
    if run is None or run.dispatch is None or run.execute is not None:
        return  # the user calls it
    run.dispatch.inject(run.carrier)
    run.dispatch.end()
    run.execute = recorder.execute(run.task, measured=True)
    # It is current to the end of this asyncio task, which ARQ has made for the body alone. Its
    # outcome is known later, in another one.
    run.execute.__enter__()
    yield
    run.raised = call.error
    run.aborted = run.job_id in run.worker.aborting_tasks


def finish_job(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    run, finish = current.get(), call.argument(1, "finish")
    if run is None or run.dispatch is None:
        return
    run.finished = True  # for a shutdown that comes meanwhile: the transaction goes on
    operation = run.execute or run.dispatch
    operation.settle(run.outcome(finish=finish))
    with run.execute or nullcontext():
        if not finish:
            yield from _submit_again(run, call, recorder)
        else:
            if run.kept is not None:
                joining.set(forget(run.job_id))
            yield
        if call.error is not None:
            run.settle_unfinished(call.error)


def _submit_again(run: Run, call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Submit a retry: for ARQ, the job stays in its queue."""
    delay = call.argument(5, "incr_score")
    carrier = dict(run.carrier)
    task = replace(
        run.task,
        carrier=carrier,
        attempt=(run.attempt or 1) + 1,
        eta=(run.score + delay) / 1000 if delay else None,
    )
    with recorder.submit(task) as operation:
        joining.set(keep(run.job_id, carrier, run.enqueued))
        yield
        operation.settle_by(call)
