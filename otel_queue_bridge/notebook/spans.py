"""Spans and tables as a notebook's user has them: shown as a cell's result, or as a data frame."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from otel_queue_bridge import semconv
from otel_queue_bridge.layout import duration
from otel_queue_bridge.notebook import draw
from otel_queue_bridge.view import Queues

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from otel_queue_bridge.otlp import Span

_QUEUES = ("system", "queue", "task", "submitted", "finished", "failed", "retried")
_QUANTILES = ("wait_p50_s", "wait_p95_s", "run_p50_s", "run_p95_s")


class NotebookError(Exception):
    """Says in one sentence what went wrong, and what to do about it."""


class Table:
    """Rows of one shape; names that end with `_s` are of seconds."""

    def __init__(self, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
        self._columns = columns
        self.rows = [{name: row[name] for name in columns} for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __repr__(self) -> str:
        return draw.table_as_text(*self._shown())

    def _repr_html_(self) -> str:
        return draw.table_as_html(*self._shown())

    def _shown(self) -> tuple[list[str], list[list[str]]]:
        head = [name.removesuffix("_s").replace("_", " ") for name in self._columns]
        return head, [[_cell(*field) for field in row.items()] for row in self.rows]

    def to_dataframe(self) -> Any:
        """Return a pandas.DataFrame; NotebookError without pandas."""
        return _pandas().DataFrame(self.rows, columns=list(self._columns))


class Spans:
    """Some spans: the waterfall as a cell's result."""

    def __init__(self, spans: Sequence[Span] = ()) -> None:
        self._held = spans

    def spans(self) -> list[Span]:
        """Return them in the order in which they ended or arrived."""
        return list(self._held)

    def __len__(self) -> int:
        return len(self.spans())

    def __iter__(self) -> Iterator[Span]:
        return iter(self.spans())

    def __repr__(self) -> str:
        return draw.as_text(self.spans())

    def _repr_html_(self) -> str:
        return draw.as_html(self.spans())

    def queues(self) -> Table:
        """Count each task of each queue: what was submitted, and what became of it."""
        queues = Queues(clock=lambda: 0.0)  # before all of them: it sums up whatever their age
        for span in self.spans():
            queues.add_span(span)
        return queue_table(queues.table())

    def to_dataframe(self) -> Any:
        """Return a pandas.DataFrame, one row a span; NotebookError without pandas."""
        pandas = _pandas()
        records = [_record(span) for span in self.spans()]
        for record in records:
            record["start"] = pandas.Timestamp(record["start"], unit="ns", tz="UTC")
        return pandas.DataFrame(records)


def _record(span: Span) -> dict[str, Any]:
    attributes = span.attributes
    return {
        "start": span.start,
        "duration_s": (span.end - span.start) / 1e9,
        "name": span.name,
        "kind": span.kind,
        "service": span.service,
        "status": span.status,
        "step": attributes.get(semconv.MESSAGING_OPERATION_NAME),
        "queue": attributes.get(semconv.MESSAGING_DESTINATION_NAME),
        "task": attributes.get(semconv.TASK_NAME),
        "task_id": attributes.get(semconv.MESSAGING_MESSAGE_ID),
        "task_status": _status(span),
        "wait_s": attributes.get(semconv.TASK_WAIT),
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "attributes": attributes,
    }


def queue_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Make the table of what `view` says of its queues."""
    shown = []
    for row in rows:
        quantiles = {
            name: None if (found := row[name.removesuffix("_s") + "_ms"]) is None else found / 1e3
            for name in _QUANTILES
        }
        shown.append({**row, "finished": row["completed"], **quantiles})
    return Table((*_QUEUES, *_QUANTILES), shown)


def tasks_of(spans: Sequence[Span]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names of the tasks that were submitted, by id, and of those that are not done.

    A task is done once an attempt has ended that is not tried again. A batch has one execute,
    which links to all its submits.
    """
    ended: set[object] = set()
    for span in spans:
        step = span.attributes.get(semconv.MESSAGING_OPERATION_NAME)
        # A dispatch has a status only if the task never runs: it was revoked, or is unknown.
        if step in (semconv.DISPATCH.name, semconv.EXECUTE.name) and _status(span) not in (
            None,
            "retry",
        ):
            ended.add(span.attributes.get(semconv.MESSAGING_MESSAGE_ID))
            ended.update(link.span_id for link in span.links)
    submitted, pending = {}, {}
    for span in spans:
        step = span.attributes.get(semconv.MESSAGING_OPERATION_NAME)
        if step == semconv.SUBMIT.name and span.status != "ERROR":
            task_id = str(span.attributes.get(semconv.MESSAGING_MESSAGE_ID, span.span_id))
            submitted[task_id] = str(span.attributes.get(semconv.TASK_NAME, span.name))
            if not ended & {task_id, span.span_id}:
                pending[task_id] = submitted[task_id]
    return submitted, pending


def _status(span: Span) -> Any:
    return span.attributes.get(semconv.TASK_STATUS, span.attributes.get("status"))


def _cell(name: str, value: object) -> str:
    if value is None:
        return "-"
    if name.endswith("_s") and isinstance(value, int | float):
        return duration(value * 1e9)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _pandas() -> Any:
    try:
        return import_module("pandas")  # the user may not have it
    except ModuleNotFoundError:
        raise NotebookError("to_dataframe() needs pandas: pip install pandas") from None
