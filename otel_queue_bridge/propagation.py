"""Carry the trace through a queue: inject, and extract to a parent and links.

The propagators are OpenTelemetry's. Beside their fields we add two time stamps, a mark once the
carrier holds a dispatch instead of the submit, and what a submit has decided for all attempts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, MutableMapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage, propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, attach, create_key, detach, set_value
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    Link,
    NonRecordingSpan,
    SpanContext,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_queue_bridge.adapter import SUBMITTED
from otel_queue_bridge.config import OPTIONS, ConfigError
from otel_queue_bridge.failures import LONGEST, encodable, pass_on

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager
    from typing import Literal

    from otel_queue_bridge.adapter import Task
    from otel_queue_bridge.config import Config

PLANNED = "otel-planned"
"""When the task is planned to start, if later; seconds since the epoch."""
DISPATCHED = "otel-dispatched"
"""Set once the carrier holds a dispatch instead of the submit; `once` if one execute follows."""
RELATION = "otel-relation"
"""The relation that the submit has decided on, for this task and its retries."""
SCHEDULE = "otel-schedule"
"""Name of the schedule that has submitted the task."""
_RELATIONS = ("child", "link", "none")
ASKED = create_key("otel_queue_bridge.relation")
"""In a context: the relation that the caller asks for by `relation()`."""
ATTEMPT = create_key("otel_queue_bridge.attempt")
"""In the context of an execute, if retries are linked: its span."""
_EXECUTE_ID = 0x9E3779B97F4A7C15
"""XORed with the dispatch's span id, it gives the span id of the one execute that follows."""
_FAR_FUTURE = 1e11
_OWN = frozenset({SUBMITTED, PLANNED, DISPATCHED})
_W3C = (TraceContextTextMapPropagator, W3CBaggagePropagator)
"""Propagators that extract what they have injected, and nothing else."""


def relation(kind: Literal["child", "link", "none"]) -> AbstractContextManager[None]:
    """Decide how the worker's spans belong to the submits inside the `with`, whatever the options.

    `child` of the submit, in a new trace with a `link` to it, or `none`. It holds for this thread
    or asyncio task, and travels with each task; what those tasks submit is not concerned.

    Raises:
        ConfigError: the relation is none of these.

    """
    if kind not in _RELATIONS:
        message = f"relation({kind!r}): {OPTIONS['relation'].allowed}"
        raise ConfigError(message)
    return _asking(kind)


@contextmanager
def _asking(kind: str) -> Iterator[None]:
    token = attach(set_value(ASKED, kind))
    try:
        yield
    finally:
        detach(token)


class TolerantGetter(Getter[Mapping[Any, Any]]):
    """Reads carriers that came over a broker: text or bytes, lists of them, or junk."""

    def get(self, carrier: Mapping[Any, Any], key: str) -> list[str] | None:
        value = carrier.get(key)
        if type(value) is str:  # our own values always are
            return [value]
        if value is None:
            value = carrier.get(key.lower()) or carrier.get(key.title())
            if value is None:
                return None
        values = value if isinstance(value, (list, tuple)) else (value,)
        return [text for text in map(_text, values) if text is not None] or None

    def keys(self, carrier: Mapping[Any, Any]) -> list[str]:
        return [key for key in carrier if isinstance(key, str)]


_getter = TolerantGetter()


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    return value.decode("latin-1") if isinstance(value, bytes) else None


class Origin:
    """Where an operation comes from; it is read from the carrier once per operation."""

    __slots__ = ("context", "due", "links", "parent", "schedule", "span_id")

    def __init__(
        self,
        context: Context,
        parent: SpanContext,
        links: tuple[Link, ...] = (),
        due: float | None = None,
    ) -> None:
        self.context = context
        self.parent = parent
        """The span in the context; it is valid unless the operation starts a trace."""
        self.links = links
        self.due = due
        """When the task became due: the latest of submit and plans, seconds since the epoch."""
        self.schedule: str | None = None
        self.span_id: int | None = None
        """The span id that the execute must have, if that is settled already."""


class Propagation:
    """One configured way to write and read carriers."""

    def __init__(self, config: Config) -> None:
        self._configured = config.propagator
        self._relation = config.relation
        self.linked = config.linked_tasks
        self.retries_linked = config.retries == "link"
        self._link_after = math.inf if config.link_after is None else config.link_after
        self._known: _Known | None = None
        self._handed: _Handed | None = None

    def _fields(self) -> _Known:
        # The global one is looked up at every use: it may be set after instrument().
        propagator = self._configured or propagate.get_global_textmap()
        known = self._known
        if known is None or known.propagator is not propagator:
            known = self._known = _Known(propagator)
        return known

    def submit(
        self, carrier: MutableMapping[str, Any], context: Context, eta: float | None
    ) -> None:
        """Write a submit into the carrier; it replaces any trace that was there before."""
        known = self._fields()
        propagator = known.propagator
        written = [key for key in carrier if isinstance(key, str) and key.lower() in known.lowered]
        if written:
            # Some write more keys than their fields: Jaeger's writes one per baggage entry.
            again: dict[str, str] = {}
            propagator.inject(again, context=self._extract(carrier, Context()))
            for key in {*written, *again}:
                carrier.pop(key, None)
        propagator.inject(carrier, context=context)
        now = time.time()
        carrier[SUBMITTED] = f"{now:.6f}"
        if eta is not None and eta > now:
            carrier[PLANNED] = f"{eta:.6f}"

    def mark(self, carrier: MutableMapping[str, Any], task: Task, asked: object) -> None:
        """Write what the submit has decided; a retry keeps it."""
        if asked:
            carrier[RELATION] = asked
        elif self._is_linked(task):
            carrier.setdefault(RELATION, "link")
        if task.schedule:
            carrier[SCHEDULE] = encodable(task.schedule[:LONGEST])
        elif not task.is_retry:  # somebody enqueues once more what a schedule has submitted
            carrier.pop(SCHEDULE, None)

    def hand_over(
        self, carrier: MutableMapping[str, Any], context: Context, *, once: bool = False
    ) -> None:
        """Write a dispatch into the carrier, for the execute that follows it."""
        known = self._fields()
        injected: dict[str, Any] = {}
        known.propagator.inject(injected, context=context)
        for field in known.fields:
            carrier.pop(field, None)
        carrier.update(injected)
        carrier[DISPATCHED] = "once" if once else "1"
        if injected and known.is_w3c and not baggage.get_all(context):
            self._handed = _Handed(known, injected, context)

    def store(self, carrier: MutableMapping[str, Any], current: Context) -> None:
        """Write the current span, if there is any, for a task that is submitted later."""
        if _span(current).is_valid:
            self._fields().propagator.inject(carrier, context=current)

    def source(self, task: Task, current: Context) -> Origin:
        """Return where a submit comes from: the current span if there is one, else the carrier."""
        parent = _span(current)
        if self.retries_linked and task.is_retry:
            return self._retried(task, current, parent)
        if not task.carrier or parent.is_valid:
            return Origin(current, parent)
        if task.rerun_of is not None:
            asked = current.get(ASKED) or _value(task.carrier, RELATION)
            return self._apart(self.extract(task.rerun_of), self._decided(task, asked))
        return Origin(*self._first((task.carrier,), current)[1:])

    def origin(self, task: Task, current: Context) -> Origin:
        """Return where a dispatch or execute comes from, according to `relation`."""
        if task.batch:
            return self._together(task.batch)
        if task.carrier is None:
            asked = current.get(ASKED)
            if asked:  # what the task submits is not in the caller's block
                current = set_value(ASKED, None, current)
            return self._related(task, current, _span(current), asked, delay=0.0)
        carrier, context, parent = self._first((task.carrier, *task.other_carriers), Context())
        submitted, due = _times(carrier)
        dispatched = DISPATCHED in carrier and _value(carrier, DISPATCHED)
        if dispatched:
            origin = Origin(context, parent)
            if dispatched == "once":
                # The id is 0 if the carrier lost its trace on the way; then any id will do.
                origin.span_id = parent.span_id and parent.span_id ^ _EXECUTE_ID
        elif task.rerun_of is not None:
            relation = self._decided(task, _value(carrier, RELATION))
            origin = self._apart(self.extract(task.rerun_of), relation)
        else:
            delay = 0.0 if due is None or submitted is None else due - submitted
            asked = RELATION in carrier and _value(carrier, RELATION)
            origin = self._related(task, context, parent, asked, delay)
        if SCHEDULE in carrier:
            origin.schedule = _value(carrier, SCHEDULE)
        origin.due = _later(due, task.eta)
        return origin

    def extract(self, carrier: object) -> Context:
        """Return the context that the carrier holds, whatever `relation` says."""
        return self._first((carrier,), Context())[1]

    @staticmethod
    def carried(task: Task, key: str) -> str | None:
        """Return one field of ours, of whichever carrier has it."""
        carriers = _mappings((task.carrier, *task.other_carriers))
        return next((_value(one, key) for one in carriers if key in one), None)

    def due(self, task: Task) -> float | None:
        """Return when the task became due, in seconds since the epoch; None if that is unknown."""
        if task.due is not None or task.carrier is None:
            return task.due
        return _later(_times(self._holding((task.carrier, *task.other_carriers)))[1], task.eta)

    def _related(
        self, task: Task, context: Context, parent: SpanContext, asked: object, delay: float
    ) -> Origin:
        relation: object = self._relation
        if asked or self.linked or delay > self._link_after:
            relation = self._decided(task, asked, delay)
        return Origin(context, parent) if relation == "child" else self._apart(context, relation)

    def _decided(self, task: Task, asked: object, delay: float = 0.0) -> object:
        """Return the relation: of the submit, if it decided; then of the options."""
        if asked in _RELATIONS:
            return asked
        if self._is_linked(task) or (self._relation == "child" and delay > self._link_after):
            return "link"
        return self._relation

    def _is_linked(self, task: Task) -> bool:
        return any(fnmatchcase(task.name, glob) for glob in self.linked)

    def _apart(
        self, context: Context, relation: object, linked: SpanContext | None = None
    ) -> Origin:
        """Return the origin of a new trace, with a link unless the user wants none."""
        remote = _span(context) if linked is None else linked
        # Only the span is dropped: the task can still read the rest, such as baggage.
        context = trace.set_span_in_context(INVALID_SPAN, context)
        links = (Link(remote),) if remote.is_valid and relation != "none" else ()
        return Origin(context, INVALID_SPAN_CONTEXT, links)

    def _retried(self, task: Task, current: Context, parent: SpanContext) -> Origin:
        """Return the origin of a retry in a new trace, linked to the attempt that asked for it."""
        attempt: Any = current.get(ATTEMPT) or parent
        if not attempt.is_valid:
            _, current, attempt = self._first((task.carrier,), current)
        return self._apart(current, "link", attempt)

    def _together(self, batch: Sequence[Task]) -> Origin:
        """Return the origin of what runs many tasks: a separate trace, as it has no one parent."""
        links = []
        for task in batch:
            carrier, _, span = self._first((task.carrier, *task.other_carriers), Context())
            relation = self._decided(task, _value(carrier, RELATION))
            if span.is_valid and relation != "none":
                links.append(Link(span))
        return Origin(Context(), INVALID_SPAN_CONTEXT, tuple(links))

    def _first(
        self, carriers: tuple[object, ...], context: Context
    ) -> tuple[Mapping[Any, Any], Context, SpanContext]:
        """Return the first carrier that holds a trace, what it holds, and the span in that."""
        carrier = self._holding(carriers)
        found = self._extract(carrier, context)
        span = _span(found)
        if span.is_valid:
            return carrier, found, span
        # Other producers write keys in another case (Traceparent), or as bytes.
        for mapping in _mappings(carriers):
            lowered = {
                text.lower(): value for key, value in mapping.items() if (text := _text(key))
            }
            if not self._fields().lowered.isdisjoint(lowered):
                found = self._extract(lowered, context)
                return lowered, found, _span(found)
        return carrier, found, span

    def _holding(self, carriers: tuple[object, ...]) -> Mapping[Any, Any]:
        """Return the first carrier that holds a field of ours or of the propagator's."""
        first = carriers[0]
        if type(first) is dict and SUBMITTED in first:  # as nearly always
            return first
        fields = self._fields().fields
        for carrier in _mappings(carriers):
            if SUBMITTED in carrier or any(field in carrier for field in fields):
                return carrier
        return {}

    def _extract(self, carrier: Mapping[Any, Any], context: Context) -> Context:
        known, handed = self._fields(), self._handed
        if handed is not None and handed.known is known and not context and handed.is_in(carrier):
            return handed.context
        try:
            return known.propagator.extract(carrier, context=context, getter=_getter)
        except Exception as error:  # noqa: BLE001 - data and propagator may be a stranger's
            pass_on(error)
            return context


class _Known:
    """A propagator, and what it writes."""

    def __init__(self, propagator: TextMapPropagator) -> None:
        self.propagator = propagator
        self.fields = frozenset(propagator.fields)
        self.lowered = _OWN | {field.lower() for field in self.fields}
        """Its fields and our own, in lower case."""
        several = type(propagator) is CompositePropagator
        parts = getattr(propagator, "_propagators", ()) if several else (propagator,)
        self.is_w3c = all(type(part) in _W3C for part in parts)


class _Handed:
    """What was handed over last: if it is read in this process, it need not be parsed."""

    def __init__(self, known: _Known, injected: Mapping[str, Any], context: Context) -> None:
        self.known = known
        self._fields = [(field, injected.get(field)) for field in known.fields]
        span = _span(context)
        # Remote, as if read from a carrier: samplers may treat a local parent differently, and
        # they should decide alike whichever process runs the task.
        remote = SpanContext(
            span.trace_id,
            span.span_id,
            is_remote=True,
            trace_flags=span.trace_flags,
            trace_state=span.trace_state,
        )
        self.context = trace.set_span_in_context(NonRecordingSpan(remote), Context())

    def is_in(self, carrier: Mapping[Any, Any]) -> bool:
        """Tell whether the carrier holds these very strings: equal ones may be another's."""
        for field, value in self._fields:  # noqa: SIM110 - `all` would take twice as long
            if carrier.get(field) is not value:
                return False
        return True


def _span(context: Context) -> SpanContext:
    return trace.get_current_span(context).get_span_context()


def _mappings(carriers: tuple[object, ...]) -> list[Mapping[Any, Any]]:
    # First test for an exact dict: to ask an abstract class costs as much as all the rest.
    return [one for one in carriers if type(one) is dict or isinstance(one, Mapping)]


def due_by(carriers: tuple[object, ...]) -> float | None:
    """Return when a task became due, by the first of its carriers that has a time stamp."""
    times = (_times(carrier)[1] for carrier in _mappings(carriers))
    return next((due for due in times if due is not None), None)


def _times(carrier: Mapping[Any, Any]) -> tuple[float | None, float | None]:
    """Return when the task was submitted, and when it became due."""
    submitted = _time(carrier, SUBMITTED)
    if submitted is None or PLANNED not in carrier:
        return submitted, submitted
    return submitted, max(submitted, _time(carrier, PLANNED) or 0.0)


def _later(due: float | None, eta: float | None) -> float | None:
    return eta if due is not None and eta is not None and eta > due else due


def _time(carrier: Mapping[Any, Any], key: str) -> float | None:
    text = _value(carrier, key)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 < value < _FAR_FUTURE else None


def _value(carrier: Mapping[Any, Any], key: str) -> str | None:
    """Return a field of ours; it may have become a list or bytes on its way."""
    value = carrier.get(key)
    if value is None or type(value) is str:
        return value
    return (_getter.get(carrier, key) or ("",))[0]
