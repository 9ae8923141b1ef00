"""Finished spans on their way from a forked child to its parent's exporters.

Only the SDK's own exporting processors are stood in for: what else a user has added sees its
spans begin and end in the child, as ever. A child then opens no connection and waits for none.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from otel_queue_bridge.failures import pass_on

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_SDK = "opentelemetry.sdk.trace"


class Diversion:
    """In a child: the spans of its parent's exporting processors go through `send`.

    That says whether it could: what it could not is exported here, as ever.
    """

    def __init__(
        self,
        providers: Iterable[object],
        parents: frozenset[int] | None,
        send: Callable[..., bool],
    ) -> None:
        """Divert what the parent has, too: `parents` are the ids of its processors, if known."""
        self._providers = tuple(providers)
        self._send = send
        self._diverted = [
            processor
            for processor, _ in _exporting(self._providers)
            if parents is None or id(processor) in parents
        ]
        self._kept = False
        for processor in self._diverted:
            processor.on_end = self._instead(processor, processor.on_end)

    def covers_all(self, *since: object) -> bool:
        """Tell whether this process has no span to export, nor the providers set up `since`."""
        return not self._kept and all(map(self._covers, (*self._providers, *since)))

    def _covers(self, provider: object) -> bool:
        if not hasattr(provider, "force_flush"):
            return True
        processors = _processors(provider)
        return bool(processors) and all(
            any(processor is one for one in self._diverted) or not _holds_spans(processor)
            for processor in processors
        )

    def undo(self) -> None:
        for processor in self._diverted:
            vars(processor).pop("on_end", None)

    def _instead(self, processor: object, on_end: Callable[[Any], None]) -> Callable[[Any], None]:
        def divert(span: Any) -> None:
            if not span.context.trace_flags.sampled:  # the SDK's own leave these out, too
                return
            try:
                sent = self._send("span", id(processor), _packed(span))
            except Exception as error:  # noqa: BLE001 - an attribute that is no plain value
                pass_on(error)
                sent = False
            if not sent:
                self._kept = True
                on_end(span)

        return divert


def exporting_ids(providers: Iterable[object]) -> frozenset[int]:
    """Return the ids of the processors that a parent exports with, as its children see them."""
    return frozenset(id(processor) for processor, _ in _exporting(providers))


def receive(providers: Iterable[object], processor_id: int, packed: list[Any]) -> None:
    """In the parent: give a child's span to the processor that had this id at the fork."""
    for processor, resource in _exporting(providers):
        if id(processor) == processor_id:
            processor.on_end(_unpacked(packed, resource))


def _exporting(providers: Iterable[object]) -> Iterator[tuple[Any, Any]]:
    """Find the SDK's own exporting processors, each with its provider's resource."""
    export: Any = sys.modules.get(f"{_SDK}.export")
    if export is None:
        return
    for provider in providers:
        for processor in _processors(provider):
            # The very types: what a user has derived may do anything.
            if type(processor) in (export.BatchSpanProcessor, export.SimpleSpanProcessor):
                yield processor, provider.resource  # type: ignore[attr-defined]


def _processors(provider: object) -> tuple[Any, ...]:
    # SDK 1.45 has no public list of them.
    together = getattr(provider, "_active_span_processor", None)
    return tuple(getattr(together, "_span_processors", ()))


def _holds_spans(processor: Any) -> bool:
    trace: Any = sys.modules[_SDK]
    own = getattr(type(processor), "force_flush", None)
    return own is not trace.SpanProcessor.force_flush


def _packed(span: Any) -> list[Any]:
    scope, status = span.instrumentation_scope, span.status
    return [
        span.name,
        _packed_context(span.context),
        span.parent and _packed_context(span.parent),
        _packed_attributes(span),
        [(event.name, _packed_attributes(event), event.timestamp) for event in span.events],
        [(_packed_context(link.context), _packed_attributes(link)) for link in span.links],
        span.kind.name,
        (status.status_code.name, status.description),
        span.start_time,
        span.end_time,
        scope and (scope.name, scope.version, scope.schema_url, dict(scope.attributes or {})),
        (span.dropped_events, span.dropped_links),
    ]


def _unpacked(packed: list[Any], resource: Any) -> Any:
    from opentelemetry.sdk.trace import Event, ReadableSpan  # noqa: PLC0415 - no span without an SDK
    from opentelemetry.sdk.util import BoundedList  # noqa: PLC0415 - likewise
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

    name, context, parent, attributes, events, links, kind, status, start, end, scope, dropped = (
        packed
    )
    kept_events: Any = BoundedList(len(events) or 1)
    kept_events.extend([Event(name, _attributes(values), at) for name, values, at in events])
    kept_links: Any = BoundedList(len(links) or 1)
    kept_links.extend([Link(_context(to), _attributes(values)) for to, values in links])
    kept_events.dropped, kept_links.dropped = dropped
    return ReadableSpan(
        name,
        context=_context(context),
        parent=parent and _context(parent),
        resource=resource,
        attributes=_attributes(attributes),
        events=kept_events,
        links=kept_links,
        kind=SpanKind[kind],
        status=Status(StatusCode[status[0]], status[1]),
        start_time=start,
        end_time=end,
        instrumentation_scope=scope and InstrumentationScope(*scope),
    )


def _packed_context(context: SpanContext) -> list[Any]:
    state = list(context.trace_state.items())
    return [context.trace_id, context.span_id, context.is_remote, context.trace_flags, state]


def _context(packed: list[Any]) -> SpanContext:
    trace_id, span_id, is_remote, flags, state = packed
    entries = TraceState([(key, value) for key, value in state])
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(flags), entries)


def _packed_attributes(of: Any) -> tuple[dict[str, Any], int]:
    return dict(of.attributes or {}), of.dropped_attributes


def _attributes(packed: list[Any]) -> BoundedAttributes:
    held, dropped = packed
    attributes = BoundedAttributes(
        attributes={k: tuple(v) if isinstance(v, list) else v for k, v in held.items()}
    )
    attributes.dropped = dropped
    return attributes
