"""Plain callbacks: strategies of others that keep Celery's requests to themselves.

What they hand to the pool is counted at the least. It has an execute if Celery's tracer runs it,
or if it is a batch of celery-batches.
"""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import SUCCESS, Call, Outcome, Recorder
from otel_queue_bridge.adapters.celery.attempt import PoolAttempt, cause
from otel_queue_bridge.adapters.celery.outcome import failure
from otel_queue_bridge.adapters.celery.reading import batch_of, task_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_TRACER = "celery.app.trace"
_BATCHES = "celery_batches.trace"


def hand_over(call: Call, recorder: Recorder) -> None:
    pool, run_by = call.instance, getattr(call.argument(0, "target"), "__module__", "")
    found = list(_requests(call.argument(1, "args") or ()))
    if not found:
        return
    tasks = [task_of(pool.app, facts["task"], facts["id"], facts) for facts in found]
    if run_by != _BATCHES:  # else `Batches.flush` was the dispatch
        for task, facts in zip(tasks, found, strict=True):
            operation = recorder.dispatch(task)
            operation.inject(facts, once=run_by == _TRACER)
            operation.end()
    one = len(tasks) == 1 and run_by != _BATCHES
    request = _Request(pool.app.tasks[tasks[0].name], found[0] if one else {})
    kind = {_TRACER: PoolAttempt, _BATCHES: _CountedByItself}.get(run_by, _Unknown)
    attempt = kind(request, tasks[0] if one else batch_of(tasks))
    accept = recorder.advised(call.kwargs.get("accept_callback") or _nothing, request.accept)
    accept.otel_attempt = weakref.ref(attempt)  # type: ignore[attr-defined]
    given = call.kwargs.get("callback")
    call.kwargs = call.kwargs | {
        "accept_callback": accept,
        "error_callback": recorder.advised(
            call.kwargs.get("error_callback") or _nothing, attempt.lose
        ),
    }
    if given or pool.uses_semaphore:  # without one, only prefork does not raise
        call.kwargs["callback"] = recorder.advised(given or _nothing, attempt.finish)


@dataclass
class _Request:
    """What a `PoolAttempt` reads of Celery's requests."""

    task: Any
    request_dict: dict[str, Any]
    time_start: float | None = None
    _already_cancelled: bool = False

    def accept(self, *_: object) -> None:
        self.time_start = time.time()


class _Unknown(PoolAttempt):
    """An attempt of which only its end is known, and not what it came to unless it died."""

    def finish(self, call: Call, recorder: Recorder) -> None:
        (result,) = call.args or (None,)
        died = type(result).__name__ == "ExceptionInfo"  # in a pool that has no children
        self._count(recorder, self._loss(cause(result)) if died else SUCCESS, None)

    def _loss(self, error: Any) -> Outcome:
        # A message that is acknowledged late is not acknowledged, and delivered again.
        task = self._request.task
        return Outcome("retry", error) if task.acks_late else failure(error, task)


class _CountedByItself(_Unknown):
    """A batch, counted where it ran: only there is known what it came to."""

    def finish(self, _: Call, __: Recorder) -> None:
        self._over = True


def _requests(arguments: Iterable[object]) -> Iterator[dict[str, Any]]:
    """Find the requests in what a pool's function is called with.

    Types are asked instead of objects: to ask one of Celery's proxies would evaluate it.
    """
    for argument in arguments:
        if type(argument) is dict and {"task", "id"} <= argument.keys():
            yield argument
        else:
            yield from _objects(argument, depth=3)


def _objects(found: Any, depth: int) -> Iterator[dict[str, Any]]:
    if type(found) in (list, tuple) and depth:
        for one in found:
            yield from _objects(one, depth - 1)
    elif hasattr(type(found), "request_dict"):
        yield found.request_dict


def _nothing(*_: object) -> None:
    """Stand where the strategy has no callback."""
