"""The two paths of a task through each queue, without a broker: the submit, and a worker's work.

Only the transport is a stand-in; all else is the queue library's own code. Each module has a class
`Paths`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.util.types import AttributeValue

QUEUES = tuple(
    queue
    for queue in ("celery", "dramatiq", "rq", "fastworker")
    if find_spec(queue)  # FastWorker needs Python 3.12
)


@dataclass(frozen=True)
class Facts:
    """What is known of a task, and so has to be recorded."""

    task: str
    destination: str
    submitted: Mapping[str, AttributeValue]
    """The attributes of a submit, besides those that every queue has."""
    worked: Mapping[str, AttributeValue]
    """The same for dispatch and execute."""
    dispatched: Mapping[str, AttributeValue] = field(default_factory=dict)
    """What a dispatch has in addition."""
    exchange: Mapping[str, AttributeValue] | None = None
    """The attributes of the span for a submit's request; None if there is no such span."""
    replied: Mapping[str, AttributeValue] = field(default_factory=dict)
    """The attributes of that span that are known only after its start."""


class Paths(Protocol):
    """One queue's paths; a process makes them once, after instrumentation."""

    facts: Facts

    def submit(self) -> None:
        """Submit a task, as a web handler does."""

    def worker(self) -> Callable[[], None]:
        """Return a function that handles the message submitted last, as a worker does."""


def load(queue: str) -> type[Paths]:
    paths: type[Paths] = import_module(f"{__name__}.{queue}").Paths
    return paths
