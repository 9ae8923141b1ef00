"""The spans of a test, and what a test asks of them; `queue_spans` is one of these."""

from __future__ import annotations

# In a forked child a provider of the SDK (1.45) uses a pool of threads (`Resource`). Had that been
# imported after the provider was made, the child would wait for its lock for ever.
import concurrent.futures.thread  # noqa: F401
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, get_args

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.environment_variables import OTEL_SDK_DISABLED
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from otel_queue_bridge import semconv
from otel_queue_bridge.adapter import Status
from otel_queue_bridge.instrumentor import recording_with
from otel_queue_bridge.layout import printable, rows
from otel_queue_bridge.otlp import Receiver
from otel_queue_bridge.processors import attached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from opentelemetry.sdk.trace import ReadableSpan

    from otel_queue_bridge.otlp import Span

STATUSES: tuple[Status, ...] = get_args(Status)


class QueueSpans:
    """The spans of one test: those of its queues, and those that its app makes besides.

    `timeout` is in seconds: how long to wait for what has not ended yet.
    """

    _patience = 10.0

    def __init__(
        self, receiver: Receiver, tracer_provider: TracerProvider, exporter: Exporter
    ) -> None:
        self._receiver = receiver
        self.exporter = exporter
        """For a provider of the app's that is not the global one: that one is seen as it is."""
        self.tracer_provider = tracer_provider
        """For instrumentations that take a provider, so that their spans are here, too."""

    def span(self, name: str) -> AbstractContextManager[trace.Span]:
        """Make a span that lasts as long as the `with`: the parent of what is submitted there."""
        return self.tracer_provider.get_tracer(__name__).start_as_current_span(name)

    def spans(self) -> list[Span]:
        """Return all spans that have ended, in order of their start."""
        found = {(span.trace_id, span.span_id): span for span in self._receiver.spans()}
        return sorted(found.values(), key=lambda span: span.start)

    def wait(
        self,
        *,
        task: str = "*",
        status: Status | None = None,
        count: int = 1,
        timeout: float | None = None,
    ) -> list[Span]:
        """Wait for `count` runs of a task, and return the `execute` spans of all that have ended.

        `task` is the task's name, or a glob such as `shop.*`. A retried task has one run for each
        attempt; with `status`, only runs that ended with it count.

        Raises:
            TimeoutError: too few runs have ended; the message shows all spans.
            ValueError: there is no such status.

        """
        __tracebackhide__ = True
        if status is not None and status not in STATUSES:
            raise ValueError(f"status is {status!r}: allowed are {', '.join(STATUSES)}")

        def runs() -> list[Span]:
            return [span for span in _runs(self.spans(), task) if status in (None, _status(span))]

        seconds = self._patience if timeout is None else timeout
        if not self._within(seconds, lambda: len(runs()) >= count):
            which = f"task {task!r}" + (f" with status {status!r}" if status else "")
            ended = f"{len(runs())} of {count} runs of {which} ended"
            raise TimeoutError(self._explained(ended, seconds))
        return runs()

    def assert_traced(self, *, parent: str, task: str, timeout: float | None = None) -> None:
        """Assert that a run of `task` belongs to the span named `parent`, however far above.

        The way up goes through `dispatch` and `submit`, and over links: so it is there whatever
        the option `relation` says, but for `none`. `task` is a name or a glob, as in `wait`.

        Raises:
            AssertionError: no run does; the message shows all spans.

        """
        __tracebackhide__ = True

        def traced() -> bool:
            spans = self.spans()
            return _belongs(_runs(spans, task), parent, spans)

        seconds = self._patience if timeout is None else timeout
        if not self._within(seconds, traced):
            spans = self.spans()
            if not _runs(spans, task):
                reason = f"no run of task {task!r} ended"
            elif all(span.name != parent for span in spans):
                reason = f"no span {parent!r} ended"
            else:
                reason = f"no run of task {task!r} belongs to the span {parent!r}"
            raise AssertionError(self._explained(reason, seconds))

    def tree(self) -> str:
        """Return the spans as a text that is the same for each run of the same test.

        It has their names and who is whose parent, links, errors, and what came of tasks unless it
        was success; no ids and no times. Spans below the same parent are in alphabetical order.
        """
        return _tree(self.spans())

    def _within(self, timeout: float, condition: Callable[[], bool]) -> bool:
        try:
            self._receiver.wait_for(lambda _: condition(), timeout)
        except TimeoutError:
            return False
        return True

    def _explained(self, reason: str, seconds: float) -> str:
        waited = f" within {seconds:g} s" if seconds else ""
        return f"{reason}{waited}{self._hint()}\n\n{self.tree()}"

    def _hint(self) -> str:
        return ""


@contextmanager
def recording() -> Iterator[QueueSpans]:
    """Have the queues record for one test, and leave everything as it was."""
    receiver = Receiver()  # without its server: it keeps what this process hands it
    exporter = Exporter(receiver)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(OTEL_SDK_DISABLED, raising=False)  # whoever asks for spans wants some
        resource = Resource({"service.name": "pytest"})
        provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        meter_provider = MeterProvider(resource=resource, shutdown_on_exit=False)
    others = _Others(exporter)
    provider.add_span_processor(others)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    try:
        with recording_with(provider, meter_provider) as before:
            others.join(*(config.tracer_provider for config in before.values()))
            yield QueueSpans(receiver, provider, exporter)
    finally:
        others.leave()
        exporter.receivers.clear()  # for what may still have it
        provider.shutdown()
        meter_provider.shutdown()


class Exporter(SpanExporter):
    """Hands the spans of this process to receivers."""

    def __init__(self, *receivers: Receiver) -> None:
        self.receivers = list(receivers)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        request = encode_spans(spans)
        for receiver in self.receivers:
            receiver.accept(request)
        return SpanExportResult.SUCCESS


class _Others(SpanProcessor):
    """Exports the spans of the app's own providers, too: what submits a task is one of those."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._joined: list[object] = []
        self._undo = ExitStack()
        self.join()

    def on_start(self, span: object, parent_context: object = None) -> None:  # noqa: ARG002
        self.join()  # the test may have set up the app meanwhile

    def join(self, *providers: object) -> None:
        for provider in (trace.get_tracer_provider(), *providers):
            known = any(provider is one for one in self._joined)
            if not known and hasattr(provider, "add_span_processor"):
                self._joined.append(provider)
                processor = SimpleSpanProcessor(self._exporter)
                self._undo.enter_context(attached(provider, processor))

    def leave(self) -> None:
        self._undo.close()


def origins(span: Span) -> set[tuple[str, str]]:
    """Return the ids of what a span comes from: its parent, and what it is linked to."""
    return {
        (span.trace_id, span.parent_id),
        *((link.trace_id, link.span_id) for link in span.links),
    }


def _runs(spans: Iterable[Span], task: str) -> list[Span]:
    found = []
    for span in spans:
        name = str(span.attributes.get(semconv.TASK_NAME, ""))
        if _operation(span) == semconv.EXECUTE.name and (name == task or fnmatchcase(name, task)):
            found.append(span)
    return found


def _operation(span: Span) -> object:
    return span.attributes.get(semconv.MESSAGING_OPERATION_NAME)


def _status(span: Span) -> object:
    for naming in semconv.NAMINGS:
        if status := span.attributes.get(semconv.status_attribute(naming)):
            return status
    return None


def _belongs(runs: Iterable[Span], parent: str, spans: Iterable[Span]) -> bool:
    known = {(span.trace_id, span.span_id): span for span in spans}
    waiting = list(runs)
    while waiting:
        for origin in origins(waiting.pop()):
            above = known.pop(origin, None)  # once: they may go round in a circle
            if above is not None:
                if above.name == parent:
                    return True
                waiting.append(above)
    return False


def _tree(spans: Sequence[Span]) -> str:
    names = {(span.trace_id, span.span_id): span.name for span in spans}
    blocks: dict[int, list[list[str]]] = defaultdict(list)
    for row in reversed(rows(spans)):  # what is below a span comes before it
        below = sorted(blocks.pop(row.depth + 1, []))
        block = [_label(row.span, names)]
        for number, (first, *others) in enumerate(below, 1):
            branch, trunk = ("└─ ", "   ") if number == len(below) else ("├─ ", "│  ")
            block += [branch + first, *(trunk + line for line in others)]
        blocks[row.depth].append(block)
    return "\n".join(line for block in sorted(blocks[0]) for line in block) or "no spans"


def _label(span: Span, names: Mapping[tuple[str, str], str]) -> str:
    remarks = sorted(
        f"link to {names.get((link.trace_id, link.span_id), 'a span that is not here')}"
        for link in span.links
    )
    status = _status(span) if _operation(span) in semconv.STEPS else None
    if status not in (None, "success"):
        remarks.append(str(status))
    if span.status == "ERROR":
        remarks.append(f"ERROR {span.attributes.get(semconv.ERROR_TYPE, '')}".rstrip())
    return printable(f"{span.name} ({', '.join(remarks)})" if remarks else span.name)
