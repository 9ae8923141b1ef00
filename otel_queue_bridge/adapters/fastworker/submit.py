"""Submit: each task that a client's method makes has its own span.

The carrier is written when the task is made. The task may be sent much later and from another
context than the caller's: a client that knows no control plane yet keeps it (`pending_tasks`).
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
    """One call of a client's method, and the tasks that it has made so far."""

    def __init__(self, client: Any, priority: str | None = None) -> None:
        self.client = client
        self.priority = priority
        """The priority of the one message for all tasks; None if each is sent at its own."""
        self.operations: list[Operation] = []
        self.carriers: list[Any] = []
        self.traffic: Traffic | None = None
        self.refused: Outcome | None = None
        """Why a task could not be made."""
        self._asyncio_task = current_task()

    def awaits(self) -> bool:
        """Tell whether the client's method itself sends now, and not a background task of it."""
        return self._asyncio_task is current_task()

    def end(self, error: BaseException | None) -> None:
        traffic, self.traffic = self.traffic, None
        failure = self.refused or (failed(error) if error is not None else None)
        if failure is None and traffic is not None:
            failure = traffic.failure  # the client does not raise it
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
    """Open a task's submit, or keep the carrier that came with it."""
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
        task = Task(str(name), str(queue), attempt=1, transport="nng")
        submission.operations.append(recorder.submit(task))
        # Record only the error's name: its message quotes the arguments.
        submission.refused = Outcome("failure", error_type=error_name(call.error))


def _open(task: Any, submission: Submission, recorder: Recorder) -> None:
    carried: dict[str, Any] = {}
    facts = task_of(task)
    facts.carrier, facts.attempt = carried, 1
    facts.server = _server(submission.client, submission.priority or facts.queue)
    submission.operations.append(recorder.submit(facts))
    submission.carriers.append(carried)
    carrier.put(task, carried)


def _server(client: Any, priority: str) -> tuple[str, int] | None:
    for _, address in client.workers:  # the client, too, takes the first
        return listener(address, priority)
    return None


def submit(call: Call, _: Recorder) -> Generator[None, None, None]:
    submission = Submission(call.instance)
    token = _current.set(submission)
    yield
    submission.end(call.error)
    _current.reset(token)


def submit_batch(call: Call, _: Recorder) -> Generator[None, None, None]:
    """Record a batch, which travels as one message and at one priority."""
    priority = call.argument(1, "default_priority")
    submission = Submission(call.instance, getattr(priority, "value", "normal"))
    submission.traffic = Traffic(submission.carriers)
    token = _current.set(submission)
    with carrying(submission.traffic):
        yield
        submission.end(call.error)
    _current.reset(token)


def send(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Follow one task through all attempts that the client makes to send it."""
    task, submission = call.argument(0, "task"), _current.get()
    by_hand = not carrier.is_put(task)  # users do this to give a task a time limit
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
        sending.failure = None  # nobody needs it, and its traceback keeps the task alive


def repeat(call: Call, recorder: Recorder) -> None:
    """Record a periodic run: the control plane's schedule submits it to the control plane."""
    task = call.argument(0, "task")
    carried: dict[str, Any] = {}
    submitted = task_of(task, call.instance)
    submitted.carrier, submitted.attempt = carried, 1
    submitted.schedule = task.name  # periodic tasks have no other name
    with recorder.submit(submitted):
        carrier.put(task, carried)
