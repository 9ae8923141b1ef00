"""What the user's own functions say of a task: its name, and more attributes of its metrics.

The submit asks them and the carrier takes the answers along, since not every process of a worker
knows the task's arguments. Where a carrier holds no answer, they are asked again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.failures import LONGEST, encodable
from otel_queue_bridge.operation import Operation, Operations
from otel_queue_bridge.tracing import LARGEST_INT, Tracing

if TYPE_CHECKING:
    from otel_queue_bridge.adapter import Outcome, Task
    from otel_queue_bridge.config import Config
    from otel_queue_bridge.failures import Reports
    from otel_queue_bridge.metrics import Measurements

    Labels = tuple[tuple[str, "str | bool | int"], ...]

LABELS = "otel-labels"
"""In a carrier: the name and the attributes as JSON, each null if nobody was asked."""
_MOST = 5
"""Attributes of one task; the combinations of their values multiply the data points."""
_ALLOWED = (
    f"allowed are {_MOST} attributes whose values are text, whole numbers, true or false; the "
    "rest is left out"
)
_LARGEST = 16 * 1024
"""Characters of the JSON; more are junk."""


class LabelledOperations(Operations):
    """Opens the operations of tasks that have the user's names and attributes."""

    def __init__(
        self, config: Config, tracing: Tracing, measurements: Measurements, reports: Reports
    ) -> None:
        super().__init__(config, tracing, measurements, reports)
        self._name_of = config.task_name
        self._attributes_of = config.metric_attributes

    def submit(self, task: Task) -> Operation:
        labelled = self._labelled(task)
        operation = super().submit(labelled)
        if labelled.carrier is not None:  # also if it is excluded: the worker must know that
            name = labelled.name if self._name_of else None
            attributes = dict(labelled.metric_attributes or ()) if self._attributes_of else None
            labelled.carrier[LABELS] = json.dumps((name, attributes))
        return operation

    def store(self, task: Task) -> None:
        super().store(self._labelled(task))

    def dispatch(self, task: Task, start_time: int | None, *, measured: bool) -> Operation:
        return super().dispatch(self._labelled(task), start_time, measured=measured)

    def execute(self, task: Task, start_time: int | None, *, measured: bool) -> Operation:
        return super().execute(self._labelled(task), start_time, measured=measured)

    def dispatched(self, task: Task) -> None:
        super().dispatched(self._labelled(task))

    def attempted(
        self, task: Task, outcome: Outcome, started: float, duration: float | None
    ) -> None:
        super().attempted(self._labelled(task), outcome, started, duration)

    def _labelled(self, task: Task) -> Task:
        """Return a copy: the adapter goes on with the library's own name."""
        if task.metric_attributes is not None:  # it is one
            return task
        if task.batch:
            batch = [self._labelled(one) for one in task.batch]
            names = {one.name for one in batch}
            shared = names.pop() if len(names) == 1 else task.name
            return replace(task, name=shared, batch=batch, metric_attributes=())
        name, attributes = self._carried(task)
        return replace(
            task,
            name=self._name(task, name) or task.name,
            metric_attributes=self._attributes(task, attributes),
        )

    def _carried(self, task: Task) -> tuple[object, object]:
        text = self._propagation.carried(task, LABELS)
        if text and len(text) <= _LARGEST:
            try:
                name, attributes = json.loads(text)
            except (ValueError, TypeError, RecursionError):
                return None, None
            return name, attributes
        return None, None

    def _name(self, task: Task, carried: object) -> str | None:
        if self._name_of is None:
            return None
        if isinstance(carried, str):
            return encodable(carried[:LONGEST])
        try:
            answer = self._name_of(task)
            return None if answer is None else encodable(str.strip(answer)[:LONGEST])
        except Exception as error:  # noqa: BLE001 - the user's
            self._reports.report(self._name_of, error, "the task keeps its library's name")
            return None

    def _attributes(self, task: Task, carried: object) -> Labels:
        if self._attributes_of is None:
            return ()
        if isinstance(carried, dict):
            return _allowed(carried)
        try:
            answer = dict(self._attributes_of(task) or {})
        except Exception as error:  # noqa: BLE001 - the user's
            self._reports.report(self._attributes_of, error, "metrics go without its attributes")
            return ()
        allowed = _allowed(answer)
        if len(allowed) < len(answer):
            self._reports.report("metric_attributes", ValueError(), _ALLOWED)
        return allowed


def _allowed(answer: dict[Any, Any]) -> Labels:
    """Return what metrics can take of it, in an order that does not depend on the function."""
    found = [
        (encodable(name[:LONGEST]), encodable(value[:LONGEST]) if isinstance(value, str) else value)
        for name, value in answer.items()
        if isinstance(name, str) and name and _fits(value)
    ]
    return tuple(sorted(found, key=itemgetter(0))[:_MOST])


def _fits(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and abs(value) < LARGEST_INT)
