"""What the processes of a queue have exported, by case.

A case is a task with all that it submits; they have the names `case` and `case: role`.
"""

from bisect import insort
from collections import Counter, defaultdict

from otel_queue_bridge.otlp import Receiver, Span
from tests.brokers.shop import paths


class Finished:
    """All that has been exported so far; `prefix` is what all tasks' names begin with."""

    def __init__(self, receiver: Receiver, prefix: str = "") -> None:
        self._prefix = prefix
        spans = receiver.spans()
        path = paths(spans, self._described)
        cases = {
            span.trace_id: self._case_and_role(span.attributes["task.name"])[0]
            for span in spans
            if "task.name" in span.attributes
        }
        self.spans: defaultdict[str, list[str]] = defaultdict(list)
        for span in spans:
            if path[span.span_id]:
                insort(self.spans[cases[span.trace_id]], path[span.span_id])
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for point in receiver.latest():
            if "task.name" in point.attributes:
                words = (point.attributes.get(name) for name in ("task.status", "error.type"))
                kind = " ".join(filter(None, [point.metric, *words]))
                count = point.count if point.kind == "histogram" else int(point.value)
                case, _ = self._case_and_role(point.attributes["task.name"])
                self.counts[case][kind] += count

    def _case_and_role(self, task_name: str) -> tuple[str, str]:
        case, _, role = task_name.removeprefix(self._prefix).partition(": ")
        return case, role

    def _described(self, span: Span) -> str:
        operation = span.attributes.get("messaging.operation.name", span.name)
        if operation == "caller":
            return ""
        _, role = self._case_and_role(span.attributes.get("task.name", ""))
        words = (
            operation,
            role if operation == "submit" else "",
            span.attributes.get("task.status"),
            span.status.replace("UNSET", ""),
            span.attributes.get("error.type"),
        )
        return " ".join(filter(None, words))
