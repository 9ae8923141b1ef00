"""Capture the spans of this process, and those that workers send here."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from otel_queue_bridge.notebook.spans import NotebookError, Spans, tasks_of
from otel_queue_bridge.otlp import Event, Link, Receiver, Span
from otel_queue_bridge.processors import attached

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

_MOST = 50_000
"""The most spans of this process that are kept; then the oldest go."""
_LOOK = 0.05
"""Seconds between two looks at what has arrived."""
_NAMED = 5
"""The most unfinished tasks that an error names."""


@contextmanager
def capture(*, listen: bool = False, port: int = 0) -> Iterator[Captured]:
    """Capture the spans that end in this process while the block lasts.

    They come from the current TracerProvider, which goes on exporting as before, or from a
    provider for this block if none is set up. With `listen`, spans of workers are captured, too:
    it receives OTLP over HTTP on `port` (0: any free one), and prints what to set in a worker.
    NotebookError if the SDK is switched off, the current provider is none of it, or the port is
    taken.
    """
    if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        raise NotebookError(f"capture() sees no span while {OTEL_SDK_DISABLED} is true: unset it")
    with ExitStack() as undo:
        receiver = _listen(undo, port) if listen else None
        processor = _Processor()
        undo.callback(processor.shutdown)
        undo.enter_context(_attached(processor))
        captured = Captured(processor, receiver)
        if receiver:
            variables = " ".join(f"{name}={value}" for name, value in captured.environment.items())
            print(  # noqa: T201 - the cell shows it
                "Set this where a worker starts, and start it under opentelemetry-instrument:\n"
                f"export {variables}"
            )
        yield captured


class Captured(Spans):
    """What a capture has so far, also while it goes on."""

    def __init__(self, processor: _Processor, receiver: Receiver | None) -> None:
        super().__init__()
        self._processor = processor
        self._receiver = receiver
        self.environment: dict[str, str] = {}
        """With `listen`: the variables that make a worker send its spans here."""
        if receiver:
            self.environment = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_BSP_SCHEDULE_DELAY": "200",
            }

    def spans(self) -> list[Span]:
        found = [*self._processor.spans(), *(self._receiver.spans() if self._receiver else ())]
        # This process may export to the receiver, too.
        return list({(span.trace_id, span.span_id): span for span in found}.values())

    def wait(self, tasks: int = 1, timeout: float = 10.0) -> Captured:
        """Wait until so many tasks were submitted and all of them have finished; return itself.

        TimeoutError after `timeout` seconds, or at once if the block has ended: then nothing more
        can come.
        """
        deadline = time.monotonic() + timeout
        while True:
            submitted, pending = tasks_of(self.spans())
            if len(submitted) >= tasks and not pending:
                return self
            ended = self._processor.ended
            if ended or time.monotonic() >= deadline:
                when = "when the block ended" if ended else f"after {timeout:g} s"
                raise TimeoutError(self._missing(tasks, when, submitted, pending))
            time.sleep(_LOOK)

    def _missing(
        self, tasks: int, when: str, submitted: Mapping[str, str], pending: Mapping[str, str]
    ) -> str:
        said = f"{when}, {len(submitted)} of {tasks} tasks were submitted"
        if not submitted:
            return f"{said}: is otel_queue_bridge.instrument() called, and the queue installed?"
        if pending:
            named = [f"{name} {task_id}" for task_id, name in pending.items()][:_NAMED]
            said += f", and {len(pending)} have not finished: {', '.join(named)}"
            if not self._receiver:
                said += "; a worker is another process: use capture(listen=True)"
        return said


class _Processor(SpanProcessor):
    """Keeps what ends, in this process alone: a forked child has a copy that does nothing."""

    def __init__(self) -> None:
        self._kept: deque[ReadableSpan] = deque(maxlen=_MOST)
        self._process: int | None = os.getpid()

    def on_end(self, span: ReadableSpan) -> None:
        if self._process == os.getpid():
            self._kept.append(span)

    def shutdown(self) -> None:
        self._process = None

    @property
    def ended(self) -> bool:
        return self._process is None

    def spans(self) -> list[Span]:
        return [_read(span) for span in self._kept.copy()]


@contextmanager
def _attached(processor: SpanProcessor) -> Iterator[None]:
    provider: Any = _OWN.current or trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):
        with _own_provider(processor):
            yield
        return
    if not hasattr(provider, "add_span_processor"):
        raise NotebookError(
            f"the current TracerProvider, {type(provider).__qualname__}, takes no span processor:"
            " capture() needs that of opentelemetry-sdk"
        )
    with attached(provider, processor):
        yield


@contextmanager
def _own_provider(processor: SpanProcessor) -> Iterator[None]:
    """Be the global provider for a while, and make room for the user's afterwards."""
    service = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "notebook")}
    provider = TracerProvider(resource=Resource.create(service), shutdown_on_exit=False)
    provider.add_span_processor(processor)
    _OWN.current = provider
    trace.set_tracer_provider(_OWN)
    try:
        yield
    finally:
        _OWN.current = None
        trace._TRACER_PROVIDER = None  # noqa: SLF001 - the API sets one, and never takes it back
        trace._TRACER_PROVIDER_SET_ONCE = type(trace._TRACER_PROVIDER_SET_ONCE)()  # noqa: SLF001


class _OwnProvider(trace.TracerProvider):
    """Leads to the provider of the capture that goes on, else to whichever is global by then.

    Whoever gets a tracer keeps it: so it must not belong to one capture.
    """

    current: TracerProvider | None = None

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        return _OwnTracer(self, args, kwargs)


class _OwnTracer(trace.ProxyTracer):
    def __init__(
        self, provider: _OwnProvider, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> None:
        super().__init__(*args, **kwargs)
        self._own = provider
        self._as = args, kwargs

    @property
    def _tracer(self) -> trace.Tracer:
        provider = self._own.current or trace.get_tracer_provider()
        if provider is self._own or isinstance(provider, trace.ProxyTracerProvider):
            return trace.NoOpTracer()
        args, kwargs = self._as
        return provider.get_tracer(*args, **kwargs)


_OWN = _OwnProvider()


def _read(span: ReadableSpan) -> Span:
    """Read a span of the SDK as if it had arrived."""
    context, scope = span.context, span.instrumentation_scope
    resource = _plain(span.resource.attributes)
    return Span(
        name=span.name,
        kind=span.kind.name,
        trace_id=f"{context.trace_id:032x}" if context else "",
        span_id=f"{context.span_id:016x}" if context else "",
        parent_id=f"{span.parent.span_id:016x}" if span.parent else "",
        start=span.start_time or 0,
        end=span.end_time or 0,
        attributes=_plain(span.attributes or {}),
        events=tuple(
            Event(event.name, event.timestamp, _plain(event.attributes or {}))
            for event in span.events
        ),
        links=tuple(
            Link(
                f"{link.context.trace_id:032x}",
                f"{link.context.span_id:016x}",
                _plain(link.attributes or {}),
            )
            for link in span.links
        ),
        status=span.status.status_code.name,
        status_message=span.status.description or "",
        service=str(resource.get("service.name", "")),
        resource=resource,
        scope=scope.name if scope else "",
        scope_version=(scope.version or "") if scope else "",
        schema_url=(scope.schema_url or "") if scope else "",
    )


def _plain(value: Any) -> Any:
    """Return what OTLP would make of an attribute."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return value


def _listen(undo: ExitStack, port: int) -> Receiver:
    try:
        return undo.enter_context(Receiver(port=port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise NotebookError(
            f"cannot listen on port {port}: {reason}; leave out `port` for any free one"
        ) from None
