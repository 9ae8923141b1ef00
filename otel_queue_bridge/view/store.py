"""The newest traces, within a bound, and how a trace looks in the list.

A span is kept as the bytes that it came in, beside the few fields that lists and links need: so
that 50,000 of them fit into some 35 MB.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

from otel_queue_bridge import semconv
from otel_queue_bridge.otlp import Log, read_logs, read_points, read_spans
from otel_queue_bridge.view.queues import number

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from otel_queue_bridge.otlp import Span
    from otel_queue_bridge.otlp.requests import Request
    from otel_queue_bridge.view.queues import Queues

TRACES = 2_000
SPANS = 50_000
SPANS_OF_A_TRACE = 10_000
LOGS_OF_A_TRACE = 1_000
BYTES = 60 * 2**20
"""How much is held; the oldest goes first."""
_SPAN, _LINK, _LOG = 300, 400, 600
"""About how many bytes each takes beside what it says."""
_SERVICES = 100
"""The most services whose dropped traces are counted by name; the rest count as `others`."""
_STEPS = frozenset(step.name for step in (semconv.SUBMIT, semconv.DISPATCH, semconv.EXECUTE))
_SOURCES = 1_000
_EARLY_LOGS = 1_000
"""Logs may arrive before the first span of their trace."""


class Source(NamedTuple):
    """Where spans come from: what they share, as bytes (a part of a message keeps all of it)."""

    resource: bytes
    scope: bytes


class Kept(NamedTuple):
    """One span of a trace."""

    message: bytes
    source: Source
    name: str
    parent_id: str
    step: str
    """submit, dispatch or execute; empty for a span that is not ours."""
    task_id: str
    failed: bool


class Link(NamedTuple):
    """One link between traces, by the ids of both spans."""

    from_trace: str
    from_span: str
    to_trace: str
    to_span: str


@dataclass(slots=True)
class Trace:
    """One trace, and all that the list says of it."""

    trace_id: str
    owner: str = ""
    """The service at whose cost it is held: that of its root, or of its first span."""
    sequence: int = 0
    """Grows with each change of any trace."""
    spans: dict[str, Kept] = field(default_factory=dict)
    logs: list[Log] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    root: str = ""
    size: int = 0
    """About how many bytes it takes."""
    begin: int = 0
    end: int = 0
    errors: int = 0
    error: str | None = None
    attempts: int = 0
    retries: int = 0
    wait: float | None = None
    services: dict[str, None] = field(default_factory=dict)
    statuses: dict[str, None] = field(default_factory=dict)
    systems: dict[str, None] = field(default_factory=dict)
    queues: dict[str, None] = field(default_factory=dict)
    task_names: dict[str, None] = field(default_factory=dict)

    def add(self, span: Span, message: bytes, source: Source) -> None:
        attributes = span.attributes
        step = str(attributes.get(semconv.MESSAGING_OPERATION_NAME, ""))
        if step not in _STEPS:
            step = ""
        task_id = str(attributes.get(semconv.MESSAGING_MESSAGE_ID, "")) if step else ""
        failed = span.status == "ERROR"
        self.spans[span.span_id] = Kept(
            message, source, span.name, span.parent_id, step, task_id, failed
        )
        self.begin = min(self.begin or span.start, span.start)
        self.end = max(self.end, span.end)
        self.services[span.service] = None
        if not span.parent_id or not self.root:
            self.root = span.span_id
        if failed:
            self.errors += 1
            self.error = self.error or _last_part(attributes.get(semconv.ERROR_TYPE)) or "ERROR"
        if step:
            self._add_step(step, attributes)

    def _add_step(self, step: str, attributes: dict[str, Any]) -> None:
        for found, name in (
            (self.systems, semconv.MESSAGING_SYSTEM),
            (self.queues, semconv.MESSAGING_DESTINATION_NAME),
            (self.task_names, semconv.TASK_NAME),
        ):
            if name in attributes:
                found[str(attributes[name])] = None
        status = attributes.get(semconv.TASK_STATUS, attributes.get("status"))
        if status is not None:
            self.statuses[str(status)] = None
        attempt = attributes.get(semconv.TASK_ATTEMPT)
        if isinstance(attempt, int):
            self.attempts = max(self.attempts, attempt)
        if status == "retry" and step == semconv.EXECUTE.name:
            self.retries += 1
        wait = number(attributes.get(semconv.TASK_WAIT))
        if wait is not None:
            self.wait = max(self.wait or 0.0, wait)

    def row(self, leading: Collection[Link]) -> dict[str, Any]:
        """Return what the list shows, for JSON; `leading` are the links to this trace."""
        elsewhere = {link.to_span for link in leading}
        root = self.spans.get(self.root)
        going = {kept.task_id for kept in self.spans.values() if kept.step not in ("", "submit")}
        submits = {
            span_id: kept
            for span_id, kept in self.spans.items()
            if kept.step == "submit" and not kept.failed
        }
        return {
            "trace_id": self.trace_id,
            "sequence": self.sequence,
            "name": root.name if root else "",
            "service": self.owner,
            "services": list(self.services),
            "start_ms": self.begin / 1e6,
            "duration_ms": (self.end - self.begin) / 1e6,
            "spans": len(self.spans),
            "tasks": len({kept.task_id for kept in self.spans.values() if kept.task_id}),
            "errors": self.errors,
            "error": self.error,
            "statuses": list(self.statuses),
            "attempts": self.attempts,
            "retries": self.retries,
            "wait_ms": None if self.wait is None else self.wait * 1e3,
            "links": len(self.links) + len(leading),
            "systems": list(self.systems),
            "queues": list(self.queues),
            "task_names": list(self.task_names),
            "pending": sum(
                kept.task_id not in going and span_id not in elsewhere
                for span_id, kept in submits.items()
            ),
            "orphan": any(
                kept.parent_id and kept.parent_id not in self.spans for kept in self.spans.values()
            ),
        }


class Rejected(NamedTuple):
    """A request that was refused; `time` in seconds since the epoch."""

    time: float
    where: str
    reason: str


class Store:
    """All that has arrived, as far as it is held. Every method may be called from any thread."""

    def __init__(self, queues: Queues, *, traces: int = TRACES, spans: int = SPANS) -> None:
        self.changed = threading.Condition()
        """Notified of each arrival, also of what was refused."""
        self.queues = queues
        self.limit = traces
        self._span_limit = spans
        self._traces: OrderedDict[str, Trace] = OrderedDict()
        """By id, in the order of their latest change."""
        self._owned: dict[str, OrderedDict[str, None]] = {}
        self._linked: dict[str, dict[Link, None]] = {}
        """The links that lead to a trace, whether it is held or not."""
        self._sources: dict[Source, Source] = {}
        """Each is kept once."""
        self._early: deque[Log] = deque(maxlen=_EARLY_LOGS)
        self._sequence = 0
        self._held = self._bytes = 0
        self.newest = 0.0
        """The latest time of all that has arrived, in seconds since the epoch."""
        self.spans = self.points = self.logs = self.refused = 0
        """How many have arrived."""
        self.dropped: Counter[str] = Counter()
        """How many traces were dropped, by service."""
        self.rejected: Rejected | None = None

    def add(self, request: Request) -> None:
        """Take in one request."""
        if isinstance(request, ExportTraceServiceRequest):
            self._add_spans(request)
            return
        points = list(read_points(request)) if hasattr(request, "resource_metrics") else []
        logs = list(read_logs(request)) if hasattr(request, "resource_logs") else []
        with self.changed:
            for point in points:
                self.newest = max(self.newest, point.time / 1e9)
                self.queues.add_point(point)
            for log in logs:
                self._add_log(log)
            self.points += len(points)
            self.logs += len(logs)
            self._make_room()
            self.changed.notify_all()

    def reject(self, reason: str) -> None:
        """Note that a request was refused; `reason` begins with where it was sent to."""
        where, _, why = reason.partition(": ")
        with self.changed:
            self.refused += 1
            self.rejected = Rejected(time.time(), where, why)
            self.changed.notify_all()

    def _add_spans(self, request: ExportTraceServiceRequest) -> None:
        arrived = list(zip(read_spans(request), self._messages(request), strict=True))
        with self.changed:
            self._sequence += 1
            for span, (message, source) in arrived:
                self.newest = max(self.newest, span.end / 1e9)
                if self._add_span(span, message, source):
                    self.queues.add_span(span)
            self.spans += len(arrived)
            self._make_room()
            self.changed.notify_all()

    def _messages(self, request: ExportTraceServiceRequest) -> Iterator[tuple[bytes, Source]]:
        """Yield the spans in the order of `read_spans`."""
        for group in request.resource_spans:
            resource = group.resource.SerializeToString()
            for scope in group.scope_spans:
                found = Source(resource, scope.scope.SerializeToString())
                source = self._sources.setdefault(found, found)
                for span in scope.spans:
                    yield span.SerializeToString(), source
        if len(self._sources) > _SOURCES:
            self._sources.clear()

    def _add_span(self, span: Span, message: bytes, source: Source) -> bool:
        """Keep a span; tell whether it is new, since exporters may send one twice."""
        trace = self._traces.get(span.trace_id)
        if trace is None:
            trace = self._traces[span.trace_id] = Trace(span.trace_id)
            for log in [log for log in self._early if log.trace_id == span.trace_id]:
                self._keep_log(trace, log)
        if span.span_id in trace.spans:
            return False
        if len(trace.spans) >= SPANS_OF_A_TRACE:
            return True
        trace.add(span, message, source)
        self._held += 1
        self._grow(trace, len(message) + _SPAN + _LINK * len(span.links))
        if not trace.owner or not span.parent_id:
            self._own(trace, span.service)
        for link in span.links:
            found = Link(span.trace_id, span.span_id, link.trace_id, link.span_id)
            trace.links.append(found)
            self._linked.setdefault(link.trace_id, {})[found] = None
            self._touch(self._traces.get(link.trace_id))
        self._touch(trace)
        return True

    def _grow(self, trace: Trace, size: int) -> None:
        trace.size += size
        self._bytes += size

    def _touch(self, trace: Trace | None) -> None:
        if trace is not None:
            trace.sequence = self._sequence
            self._traces.move_to_end(trace.trace_id)
            self._owned[trace.owner].move_to_end(trace.trace_id)

    def _own(self, trace: Trace, service: str) -> None:
        if owned := self._owned.get(trace.owner):
            owned.pop(trace.trace_id, None)
            if not owned:
                del self._owned[trace.owner]
        trace.owner = service
        self._owned.setdefault(service, OrderedDict())[trace.trace_id] = None

    def _add_log(self, log: Log) -> None:
        trace = self._traces.get(log.trace_id)
        if trace is not None:
            self._keep_log(trace, log)
            self._sequence += 1
            self._touch(trace)
        elif log.trace_id:
            self._early.append(log)

    def _keep_log(self, trace: Trace, log: Log) -> None:
        if len(trace.logs) < LOGS_OF_A_TRACE:
            trace.logs.append(log)
            self._grow(trace, _LOG + len(log.body) + len(str(log.attributes)))

    def _make_room(self) -> None:
        """Drop the oldest trace of whichever service takes the most, until all fit."""
        while self._is_full():
            service, owned = max(self._owned.items(), key=lambda item: self._share(item[1]))
            trace_id, _ = owned.popitem(last=False)
            if not owned:
                del self._owned[service]
            self._drop(self._traces.pop(trace_id))
            known = service in self.dropped or len(self.dropped) < _SERVICES
            self.dropped[service if known else "others"] += 1

    def _is_full(self) -> bool:
        if len(self._traces) > self.limit:
            return True
        return len(self._traces) > 1 and (self._held > self._span_limit or self._bytes > BYTES)

    def _share(self, owned: Collection[str]) -> int:
        """Weigh a service's traces by what there is too much of."""
        if len(self._traces) > self.limit:
            return len(owned)
        return sum(self._traces[trace_id].size for trace_id in owned)

    def _drop(self, trace: Trace) -> None:
        self._held -= len(trace.spans)
        self._bytes -= trace.size
        for link in trace.links:
            leading = self._linked[link.to_trace]
            leading.pop(link, None)
            if not leading:
                del self._linked[link.to_trace]

    # What is shown

    @property
    def held(self) -> int:
        return len(self._traces)

    def services(self) -> list[str]:
        with self.changed:
            return sorted({one for trace in self._traces.values() for one in trace.services})

    def rows(
        self, matches: Callable[[Trace, dict[str, Any]], bool], *, limit: int
    ) -> tuple[list[dict[str, Any]], int]:
        """Return the newest rows that match, and the sequence up to which they are complete."""
        with self.changed:
            found = [
                row
                for trace in sorted(self._traces.values(), key=lambda it: it.begin, reverse=True)
                if matches(trace, row := self._row(trace))
            ]
            return found[:limit], self._sequence

    def rows_since(
        self, sequence: int, matches: Callable[[Trace, dict[str, Any]], bool]
    ) -> tuple[list[dict[str, Any]], int]:
        """Return the rows that match and have changed since, oldest change first."""
        with self.changed:
            found = []
            for trace in reversed(self._traces.values()):
                if trace.sequence <= sequence:
                    break
                row = self._row(trace)
                if matches(trace, row):
                    found.append(row)
            return found[::-1], self._sequence

    @property
    def sequence(self) -> int:
        return self._sequence

    def _row(self, trace: Trace) -> dict[str, Any]:
        return trace.row(self._linked.get(trace.trace_id, ()))

    def request(self, trace_id: str) -> ExportTraceServiceRequest | None:
        """Return all spans of a trace as one request; None if it is not held."""
        with self.changed:
            trace = self._traces.get(trace_id)
            kept = [] if trace is None else list(trace.spans.values())
        if trace is None:
            return None
        request = ExportTraceServiceRequest()
        groups: dict[Source, Any] = {}
        for one in kept:
            if one.source not in groups:
                group = request.resource_spans.add()
                group.resource.MergeFromString(one.source.resource)
                scope = group.scope_spans.add()
                scope.scope.MergeFromString(one.source.scope)
                groups[one.source] = scope.spans
            groups[one.source].append(SpanMessage.FromString(one.message))
        return request

    def context(self, trace_id: str) -> dict[str, Any] | None:
        """Return what belongs to a trace beside its spans, for JSON; None if it is not held."""
        with self.changed:
            trace = self._traces.get(trace_id)
            if trace is None:
                return None
            return {
                "row": self._row(trace),
                "now_ms": time.time() * 1e3,
                "linked_from": [
                    {
                        "trace_id": link.from_trace,
                        "span_id": link.from_span,
                        "name": self._traces[link.from_trace].spans[link.from_span].name,
                        "to_span_id": link.to_span,
                        "start_ms": self._traces[link.from_trace].begin / 1e6,
                    }
                    for link in self._linked.get(trace_id, ())
                ],
                "linked_to": {
                    link.to_trace: {"name": self._row(other)["name"]} if other else None
                    for link in trace.links
                    for other in [self._traces.get(link.to_trace)]
                },
                "logs": [
                    {
                        "span_id": log.span_id,
                        "time_ms": log.time / 1e6,
                        "severity": log.severity,
                        "body": log.body,
                        "attributes": log.attributes,
                    }
                    for log in trace.logs
                ],
            }


def _last_part(error: object) -> str:
    return str(error or "").rpartition(".")[2]


def texts(trace: Trace) -> Iterable[str]:
    """Yield what a text search looks into."""
    yield from trace.services
    yield from trace.task_names
    yield trace.error or ""
    for kept in trace.spans.values():
        yield kept.name
