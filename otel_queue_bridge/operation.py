"""One live submit, dispatch or execute; everything it opens, it closes."""

from __future__ import annotations

import time
from contextlib import suppress
from contextvars import Token
from typing import TYPE_CHECKING

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from otel_queue_bridge import semconv
from otel_queue_bridge.adapter import SUCCESS, failed
from otel_queue_bridge.propagation import ASKED, ATTEMPT, SCHEDULE, Origin, Propagation
from otel_queue_bridge.tracing import NO_SPAN, Tracing, error_type_of

if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping, Sequence

    from opentelemetry.context import Context
    from opentelemetry.trace import Span
    from opentelemetry.util.types import AttributeValue
    from typing_extensions import Self

    from otel_queue_bridge.adapter import Call, Outcome, Task
    from otel_queue_bridge.config import Config
    from otel_queue_bridge.failures import Reports
    from otel_queue_bridge.metrics import Measurements
    from otel_queue_bridge.semconv import Step


class Operation:
    """One live submit, dispatch or execute.

    As a context manager it is current while it lasts. It ends once, whoever ends it.
    """

    __slots__ = (
        "_began",
        "_ended",
        "_measured",
        "_operations",
        "_outcome",
        "_span",
        "_step",
        "_token",
        "context",
        "task",
    )

    def __init__(  # noqa: PLR0913, PLR0917 - made in this module only
        self,
        operations: Operations,
        step: Step,
        task: Task,
        span: Span,
        context: Context,
        measured: bool,  # noqa: FBT001 - likewise
    ) -> None:
        self.task = task
        self.context = context
        self._operations = operations
        self._step = step
        self._span = span
        self._token: Token[Context] | None = None
        self._outcome: Outcome | None = None
        self._ended = False
        self._measured = measured
        self._began = time.perf_counter()

    @property
    def traced(self) -> bool:
        """Whether it has a span: the task is not excluded."""
        return self._span is not NO_SPAN

    def settle(self, outcome: Outcome) -> None:
        """Say what the operation came to; the last word counts."""
        self._outcome = outcome

    def settle_by(self, call: Call) -> None:
        """Settle it by what the call came to: a success, or a failure with the call's error."""
        self._outcome = SUCCESS if call.error is None else failed(call.error)

    def identify(self, task_id: str) -> None:
        """Name the task where its id is known only after the submit."""
        self.task.id = task_id
        self._span.set_attribute(semconv.MESSAGING_MESSAGE_ID, task_id)

    def inject(self, carrier: MutableMapping[str, object], *, once: bool = False) -> None:
        """Hand over: what runs next on behalf of this operation becomes its child."""
        if self._span.get_span_context().is_valid:
            self._operations.hand_over(carrier, self.context, once=once)

    def disown(self) -> None:
        """Leave it to another process to report this operation; here it never ends."""
        self._ended = True

    def end(self) -> None:
        """End the operation; a second end does nothing."""
        if self._ended:
            return
        self._ended = True
        try:
            if self._outcome is not None and self._span.is_recording():
                self._operations.tracing.describe(self._span, self._step, self._outcome)
        finally:
            self._span.end()
            if self._measured:
                self._measure(self._outcome, time.perf_counter() - self._began)
            self._outcome = None  # an error's traceback would keep the task's arguments alive

    def _measure(self, outcome: Outcome | None, duration: float) -> None:
        measurements = self._operations.measurements
        if self._step is semconv.DISPATCH:
            measurements.dispatched(self.task, outcome)
        elif self._step is semconv.SUBMIT:
            error_type = None if outcome is None else error_type_of(outcome)
            handed_over = outcome is None or outcome.status == "success"
            measurements.submitted(self.task, error_type, duration, handed_over=handed_over)
        elif outcome is not None and self.task.batch:
            self._operations.attempted(self.task, outcome, time.time() - duration, duration)
        elif outcome is not None:
            due = self.task.due
            wait = None if due is None else max(0.0, time.time() - duration - due)
            measurements.attempted(self.task, outcome, error_type_of(outcome), duration, wait)

    def __enter__(self) -> Self:
        self._token = otel_context.attach(self.context)
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.end()
        finally:
            token = self._token
            if isinstance(token, Token):
                # A coroutine may be closed in another context, which never had ours: no matter,
                # but OpenTelemetry's `detach` would log an error with a traceback.
                with suppress(ValueError):
                    token.var.reset(token)
            elif token is not None:
                otel_context.detach(token)


class Exchange:
    """One request to another process on behalf of a task, until its reply."""

    __slots__ = ("_closed", "_span", "_tracing")

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self._tracing = tracing
        self._span = span
        self._closed = False

    def note(self, attribute: str, value: AttributeValue) -> None:
        """Add an attribute that is known by now."""
        self._span.set_attribute(attribute, value)

    def close(self, outcome: Outcome = SUCCESS) -> None:
        """Close the exchange; a second close does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            if self._span.is_recording():
                self._tracing.blame(self._span, outcome)
        finally:
            self._span.end()


class Operations:
    """Opens the operations of one queue library, as one configuration wants them."""

    def __init__(
        self,
        config: Config,
        tracing: Tracing,
        measurements: Measurements,
        reports: Reports,
    ) -> None:
        self.tracing = tracing
        self.measurements = measurements
        self._propagation = Propagation(config)
        self._dispatch_spans = config.dispatch_spans
        self._reports = reports

    def submit(self, task: Task) -> Operation:
        """Open a submit and write it into the task's carrier."""
        current = otel_context.get_current()
        origin = self._propagation.source(task, current)
        operation = self._open(semconv.SUBMIT, task, origin, None, measured=True)
        if task.carrier is not None and operation.traced:
            try:
                self._propagation.submit(task.carrier, operation.context, task.eta)
                asked = current.get(ASKED)
                if asked or task.schedule or self._propagation.linked or SCHEDULE in task.carrier:
                    self._propagation.mark(task.carrier, task, asked)
            except Exception as error:  # noqa: BLE001 - a propagator of the user's
                self._reports.report("inject", error, "the task travels without its trace")
        return operation

    def store(self, task: Task) -> None:
        """Write the current span into the carrier; with a propagator that fails, it stays empty."""
        if task.carrier is not None and not self.tracing.excludes(task):
            try:
                self._propagation.store(task.carrier, otel_context.get_current())
            except Exception as error:  # noqa: BLE001 - a propagator of the user's
                self._reports.report("inject", error, "the task is stored without its trace")

    def hand_over(
        self, carrier: MutableMapping[str, object], context: Context, *, once: bool
    ) -> None:
        """Write a dispatch into the carrier; with a propagator that fails, the submit stays."""
        try:
            self._propagation.hand_over(carrier, context, once=once)
        except Exception as error:  # noqa: BLE001 - a propagator of the user's
            self._reports.report("inject", error, "execute hangs under submit")

    def dispatch(self, task: Task, start_time: int | None, *, measured: bool) -> Operation:
        """Open a dispatch; without dispatch spans, one that leaves the carrier alone."""
        current = otel_context.get_current()
        if not self._dispatch_spans:
            return Operation(self, semconv.DISPATCH, task, NO_SPAN, current, measured)
        origin = self._propagation.origin(task, current)
        return self._open(semconv.DISPATCH, task, origin, start_time, measured=measured)

    def execute(self, task: Task, start_time: int | None, *, measured: bool) -> Operation:
        """Open an execute, current for the task body."""
        origin = self._propagation.origin(task, otel_context.get_current())
        return self._open(semconv.EXECUTE, task, origin, start_time, measured=measured)

    def unseen(self, task: Task) -> Operation:
        """Open an execute that records nothing."""
        return Operation(
            self, semconv.EXECUTE, task, NO_SPAN, otel_context.get_current(), measured=False
        )

    def exchange(
        self, name: str, carriers: Sequence[object], attributes: Mapping[str, AttributeValue]
    ) -> Exchange:
        """Open an exchange: the child of the operation in the carrier, or linked to several."""
        contexts = [self._propagation.extract(carrier) for carrier in carriers]
        parents = [trace.get_current_span(context).get_span_context() for context in contexts]
        if not any(parent.is_valid for parent in parents):  # excluded, or nothing is propagated
            return Exchange(self.tracing, NO_SPAN)
        several = len(carriers) > 1
        context = otel_context.get_current() if several else contexts[0]
        links = [trace.Link(parent) for parent in parents if several and parent.is_valid]
        span = self.tracing.tracer.start_span(name, context, SpanKind.CLIENT, attributes, links)
        return Exchange(self.tracing, span)

    def dispatched(self, task: Task) -> None:
        """Count an attempt whose dispatch nobody could record."""
        self.measurements.dispatched(task, None)

    def attempted(
        self, task: Task, outcome: Outcome, started: float, duration: float | None
    ) -> None:
        """Count the end of an attempt that ran elsewhere, or, without a duration, did not run."""
        error_type = error_type_of(outcome)
        for one in task.batch or (task,):
            due = self._propagation.due(one)
            wait = None if due is None else max(0.0, started - due)
            self.measurements.attempted(one, outcome, error_type, duration, wait)

    def _open(
        self, step: Step, task: Task, origin: Origin, start_time: int | None, *, measured: bool
    ) -> Operation:
        span = self.tracing.start(step, task, origin, start_time)
        if span is NO_SPAN:  # what it runs belongs to whatever is current
            context = otel_context.get_current()
        else:
            context = trace.set_span_in_context(span, origin.context)
            if self._propagation.retries_linked and step is semconv.EXECUTE:
                # A retry may be asked for inside the user's own span.
                context = otel_context.set_value(ATTEMPT, span.get_span_context(), context)
        task.due = origin.due
        return Operation(self, step, task, span, context, measured)
