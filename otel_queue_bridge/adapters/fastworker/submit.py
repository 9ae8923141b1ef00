"""Submit: whatever a client method makes a task for, each with a span of its own.

The carrier is stamped where the task is made. It may be sent much later, from a context that is
not the caller's: a client that knows no control plane yet keeps its tasks (`pending_tasks`).
"""

from __future__ import annotations

from asyncio import current_task
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import (
    Call,
    Operation,
    Outcome,
    Recorder,
    Task,
    error_name,
    failed,
)
from otel_queue_bridge.adapters.fastworker import carrier
from otel_queue_bridge.adapters.fastworker.reading import listener, task_of
from otel_queue_bridge.adapters.fastworker.traffic import Traffic, carrying

if TYPE_CHECKING:
    from collections.abc import Generator


class Submission:
    """One call of a client: the tasks it made so far."""

    def __init__(self, client: Any, priority: str | None = None) -> None:
        self.client = client
        self.priority = priority
        """Of the message that carries them all; else each travels at its own."""
        self.operations: list[Operation] = []
        self.carriers: list[Any] = []
        self.traffic: Traffic | None = None
        self.refused: Outcome | None = None
        """Why one of them could not be made."""
        self._asyncio_task = current_task()

    def awaits(self) -> bool:
        """Tell whether it is the client's method itself that sends, and not a task it left."""
        return self._asyncio_task is current_task()

    def end(self, error: BaseException | None) -> None:
        traffic, self.traffic = self.traffic, None
        failure = self.refused or (failed(error) if error is not None else None)
        if failure is None and traffic is not None:
            failure = traffic.failure  # the client keeps it to itself
        if failure is not None and traffic is not None and traffic.sent:
            failure = failure._replace(status="success")
        for operation in self.operations:
            if failure is not None:
                operation.settle(failure)
            operation.end()


_current: ContextVar[Submission | None] = ContextVar(
    "otel_queue_bridge.fastworker.submission", default=None
)


def create(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Open a task's submit, or read what came with it."""
    found = call.kwargs.get(carrier.KEY)
    if carrier.KEY in call.kwargs:
        call.kwargs = {key: value for key, value in call.kwargs.items() if key != carrier.KEY}
    travelled, submission = "id" in call.kwargs, _current.get()
    yield
    if travelled:
        if call.error is None:
            carrier.put(call.instance, found if isinstance(found, dict) else {})
            carrier.arrive(call.instance)
    elif submission is None:
        return
    elif call.error is None:
        _open(call.instance, submission, recorder)
    else:
        priority = call.kwargs.get("priority")
        name, queue = call.kwargs.get("name"), getattr(priority, "value", priority)
        task = Task(str(name), str(queue), attempt=1)
        submission.operations.append(recorder.submit(task))
        # By its name alone: the message quotes what was passed.
        submission.refused = Outcome("failure", error_type=error_name(call.error))


def _open(task: Any, submission: Submission, recorder: Recorder) -> None:
    carried: dict[str, Any] = {}
    reading = task_of(task)
    reading.carrier, reading.attempt = carried, 1
    reading.server = _server(submission.client, submission.priority or reading.queue)
    submission.operations.append(recorder.submit(reading))
    submission.carriers.append(carried)
    carrier.put(task, carried)


def _server(client: Any, priority: str) -> tuple[str, int] | None:
    for _, address in client.workers:  # the first of them, as the client itself does
        return listener(address, priority)
    return None


def submit(call: Call, _: Recorder) -> Generator[None, None, None]:
    submission = Submission(call.instance)
    token = _current.set(submission)
    yield
    submission.end(call.error)
    _current.reset(token)


def submit_batch(call: Call, _: Recorder) -> Generator[None, None, None]:
    """A batch travels as one message, at the priority of the whole."""
    priority = call.argument(1, "default_priority")
    submission = Submission(call.instance, getattr(priority, "value", "normal"))
    submission.traffic = Traffic(submission.carriers)
    token = _current.set(submission)
    with carrying(submission.traffic):
        yield
        submission.end(call.error)
    _current.reset(token)


def send(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Send one task, with as many attempts as the client allows itself."""
    task, submission = call.argument(0, "task"), _current.get()
    by_hand = not carrier.is_put(task)  # there is no other way to give a task a time limit
    if by_hand:
        submission = Submission(call.instance)
        _open(task, submission, recorder)
    sending = Traffic([carrier.submitted(task)], task.id)
    if submission is not None and submission.awaits():
        submission.traffic = sending
    with carrying(sending):
        yield
        sending.close(None if call.error is None else failed(call.error))
    if by_hand and submission is not None:
        submission.end(call.error)
    elif submission is None or not submission.awaits():
        sending.failure = None  # nobody asks, and its traceback leads to all of the task


def repeat(call: Call, recorder: Recorder) -> None:
    """A periodic run: the control plane's schedule submits it, to itself."""
    task = call.argument(0, "task")
    carried: dict[str, Any] = {}
    submitted = task_of(task, call.instance)
    submitted.carrier, submitted.attempt = carried, 1
    with recorder.submit(submitted):
        carrier.put(task, carried)
