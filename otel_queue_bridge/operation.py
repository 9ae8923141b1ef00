"""One live submit, dispatch or execute; everything it opens, it closes."""

from __future__ import annotations

import logging
import re
import time
import traceback
from contextvars import ContextVar
from fnmatch import fnmatchcase
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    Span,
    SpanKind,
    Status,
    StatusCode,
)

from otel_queue_bridge import semconv
from otel_queue_bridge.adapter import SUCCESS, error_name
from otel_queue_bridge.interrupts import pass_on
from otel_queue_bridge.metrics import SCOPE, Measurements
from otel_queue_bridge.propagation import Origin, Propagation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer
    from opentelemetry.util.types import AttributeValue
    from typing_extensions import Self

    from otel_queue_bridge.adapter import Outcome, Task
    from otel_queue_bridge.config import Config
    from otel_queue_bridge.semconv import Step

_logger = logging.getLogger("otel_queue_bridge")

_VERSION = version("otel-queue-bridge")

_CREDENTIALS = re.compile(r"(?<=://)[^\s\"'<>]{1,256}(?=@)")

_NO_SPAN = NonRecordingSpan(INVALID_SPAN_CONTEXT)
"""Of an operation that is to have none: excluded, or a dispatch that is switched off."""

_LARGEST_INT = 1 << 63
"""What OTLP has no room for, from a broker, would cost the whole batch its export."""

_CACHED_TASKS = 1000
"""Attribute sets kept; task names from outside may be endless."""


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

    def __init__(  # noqa: PLR0913 - made in this module only
        self,
        operations: Operations,
        step: Step,
        task: Task,
        span: Span,
        context: Context,
        *,
        measured: bool = True,
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

    def settle(self, outcome: Outcome) -> None:
        """Say what the operation came to; the last word counts."""
        self._outcome = outcome

    def identify(self, task_id: str) -> None:
        """Name the task where its id is known only after the submit."""
        self.task.id = task_id
        self._span.set_attribute(semconv.MESSAGING_MESSAGE_ID, task_id)

    def inject(self, carrier: MutableMapping[str, Any], *, once: bool = False) -> None:
        """Hand over: what runs next on behalf of this operation becomes its child."""
        if self._span.get_span_context().is_valid:
            self._operations.hand_over(carrier, self.context, once=once)

    def abandon(self) -> None:
        """Leave it to another process to report this operation; here it never ends."""
        self._ended = True

    def end(self) -> None:
        """End the operation; a second end does nothing."""
        if self._ended:
            return
        self._ended = True
        try:
            if self._outcome is not None and self._span.is_recording():
                self._operations.describe(self._span, self._step, self._outcome)
        finally:
            self._span.end()
            if self._measured:
                self._operations.measure(self._step, self.task, self._outcome, self._began)
            self._outcome = None  # an error's traceback would keep the task's arguments alive

    def __enter__(self) -> Self:
        self._token = otel_context.attach(self.context)
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.end()
        finally:
            if self._token is not None:
                otel_context.detach(self._token)


class Exchange:
    """One request to another process on behalf of a task, until its reply."""

    __slots__ = ("_ended", "_operations", "_span")

    def __init__(self, operations: Operations, span: Span) -> None:
        self._operations = operations
        self._span = span
        self._ended = False

    def note(self, attribute: str, value: AttributeValue) -> None:
        """Add an attribute that is known by now."""
        self._span.set_attribute(attribute, value)

    def end(self, outcome: Outcome = SUCCESS) -> None:
        """End the exchange; a second end does nothing."""
        if self._ended:
            return
        self._ended = True
        try:
            if self._span.is_recording():
                self._operations.blame(self._span, outcome)
        finally:
            self._span.end()


class _Ids:
    """The SDK's generator of ids, but for the one span whose id is settled already."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator

    def generate_span_id(self) -> int:
        span_id: int = _reserved.get() or self._generator.generate_span_id()
        return span_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


_reserved: ContextVar[int | None] = ContextVar("otel_queue_bridge.span_id", default=None)


class Operations:
    """Opens the operations of one queue library, as one configuration wants them."""

    def __init__(self, system: str, config: Config, span_names: Mapping[str, str]) -> None:
        self.config = config
        self.propagation = Propagation(config)
        self._system = system
        self._span_names = span_names
        self._tracer: Tracer | None = None
        self._traced = False
        self.measurements = Measurements(system, config)
        self._hooks = {semconv.SUBMIT: config.submit_hook, semconv.EXECUTE: config.execute_hook}
        self._reported: list[object] = []
        self._status = semconv.status_attribute(config.naming)
        self._fixed: dict[tuple[Step, str, str], tuple[str, dict[str, AttributeValue], bool]] = {}

    def active(self) -> bool:
        """Tell whether there is anything to do: an SDK, and no suppression in this context."""
        if self._tracer is None:
            provider = self.config.tracer_provider or trace.get_tracer_provider()
            # The SDK may be set up after instrument().
            if not isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
                self._tracer = provider.get_tracer(SCOPE, _VERSION, schema_url=semconv.SCHEMA_URL)
                if hasattr(self._tracer, "id_generator"):  # the SDK's tracers have one each
                    self._tracer.id_generator = _Ids(self._tracer.id_generator)
                # With OTEL_SDK_DISABLED the SDK hands out one that does nothing.
                self._traced = not isinstance(self._tracer, trace.NoOpTracer)
        if not self._traced and not self.measurements.active():
            return False
        return is_instrumentation_enabled()

    def submit(self, task: Task) -> Operation:
        """Open a submit and write it into the task's carrier."""
        context = self.propagation.source(task, otel_context.get_current())
        operation = self._open(semconv.SUBMIT, task, Origin(context), None)
        if task.carrier is not None and operation._span is not _NO_SPAN:  # noqa: SLF001
            try:
                self.propagation.submit(task.carrier, operation.context, task.eta)  # type: ignore[arg-type]
            except Exception as error:  # noqa: BLE001 - a propagator of the user's
                self._report(self.propagation, error)
        return operation

    def hand_over(self, carrier: MutableMapping[str, Any], context: Context, *, once: bool) -> None:
        """Write a dispatch into the carrier; with a propagator that fails, the submit stays."""
        try:
            self.propagation.hand_over(carrier, context, once=once)
        except Exception as error:  # noqa: BLE001 - a propagator of the user's
            self._report(self.propagation, error)

    def dispatch(
        self, task: Task, *, start_time: int | None = None, measured: bool = True
    ) -> Operation:
        """Open a dispatch; without dispatch spans, one that leaves the carrier alone."""
        current = otel_context.get_current()
        if not self.config.dispatch_spans:
            return Operation(self, semconv.DISPATCH, task, _NO_SPAN, current, measured=measured)
        origin = self.propagation.origin(task, current)
        return self._open(semconv.DISPATCH, task, origin, start_time, measured=measured)

    def execute(
        self, task: Task, *, start_time: int | None = None, measured: bool = False
    ) -> Operation:
        """Open an execute, current for the task body."""
        origin = self.propagation.origin(task, otel_context.get_current())
        return self._open(semconv.EXECUTE, task, origin, start_time, measured=measured)

    def exchange(
        self, name: str, carriers: Sequence[object], attributes: Mapping[str, AttributeValue]
    ) -> Exchange:
        """Open an exchange: the child of the operation in the carrier, or linked to several."""
        contexts = [self.propagation.extract(carrier) for carrier in carriers]
        parents = [trace.get_current_span(context).get_span_context() for context in contexts]
        if not any(parent.is_valid for parent in parents):  # excluded, or nothing is propagated
            return Exchange(self, _NO_SPAN)
        several = len(carriers) > 1
        context = otel_context.get_current() if several else contexts[0]
        links = [trace.Link(parent) for parent in parents if several and parent.is_valid]
        tracer = self._tracer or trace.NoOpTracer()
        fixed = {semconv.MESSAGING_SYSTEM: self._system, **attributes}
        return Exchange(self, tracer.start_span(name, context, SpanKind.CLIENT, fixed, links))

    def attempted(
        self, task: Task, outcome: Outcome, *, started: float, duration: float | None
    ) -> None:
        """Count the end of an attempt that ran elsewhere, or, without a duration, did not run."""
        due = self.propagation.due(task)
        wait = None if due is None else max(0.0, started - due)
        self.measurements.attempted(task, outcome, _error_type(outcome), duration, wait)

    def measure(self, step: Step, task: Task, outcome: Outcome | None, began: float) -> None:
        """Count the end of an operation of this process."""
        if step is semconv.DISPATCH:
            self.measurements.dispatched(task, outcome)
            return
        duration = time.perf_counter() - began
        if step is semconv.SUBMIT:
            error_type = None if outcome is None else _error_type(outcome)
            handed_over = outcome is None or outcome.status == "success"
            self.measurements.submitted(task, error_type, duration, handed_over=handed_over)
        elif outcome is not None:
            self.attempted(task, outcome, started=time.time() - duration, duration=duration)

    def _open(
        self,
        step: Step,
        task: Task,
        origin: Origin,
        start_time: int | None,
        *,
        measured: bool = True,
    ) -> Operation:
        name, fixed, excluded = self._fixed_for(step, task)
        if excluded:
            context = otel_context.get_current()
            return Operation(self, step, task, _NO_SPAN, context, measured=measured)
        parent = trace.get_current_span(origin.context).get_span_context()
        doubtful = parent.is_valid and not parent.trace_flags.sampled
        attributes = fixed if doubtful else self._attributes(step, task, fixed, origin, start_time)
        tracer = self._tracer or trace.NoOpTracer()
        reserving = (
            _reserved.set(origin.span_id) if origin.span_id and step is semconv.EXECUTE else None
        )
        try:
            span = tracer.start_span(
                name, origin.context, step.kind, attributes, origin.links, start_time
            )
        finally:
            if reserving is not None:
                _reserved.reset(reserving)
        if span.is_recording():
            if doubtful:  # a sampler that does not follow its parent
                span.set_attributes(self._attributes(step, task, fixed, origin, start_time))
            hook = self._hooks.get(step)
            if hook is not None:
                self._run_hook(hook, span, task)
        context = trace.set_span_in_context(span, origin.context)
        return Operation(self, step, task, span, context, measured=measured)

    def _run_hook(self, hook: Callable[[Span, Task], None], span: Span, task: Task) -> None:
        try:
            hook(span, task)
        except Exception as error:  # noqa: BLE001 - the user's
            self._report(hook, error)

    def _report(self, culprit: object, error: Exception) -> None:
        pass_on(error)
        if culprit not in self._reported:
            self._reported.append(culprit)
            _logger.warning(
                "%s: %r failed with %s; this is logged once",
                self._system,
                culprit,
                type(error).__name__,
            )

    def _fixed_for(self, step: Step, task: Task) -> tuple[str, dict[str, AttributeValue], bool]:
        """Return what is the same for every such task: name, attributes, excluded or not."""
        key = (step, task.name, task.queue)
        fixed = self._fixed.get(key)
        if fixed is None:
            if len(self._fixed) >= _CACHED_TASKS:
                self._fixed.clear()
            fixed = (
                semconv.span_name(
                    self.config.naming,
                    step,
                    task=_encodable(task.name),
                    queue=_encodable(task.queue),
                    system_name=self._span_names.get(
                        step.name, f"{self._system}.{step.system_name}"
                    ),
                ),
                {
                    semconv.MESSAGING_SYSTEM: self._system,
                    semconv.MESSAGING_OPERATION_NAME: step.name,
                    semconv.MESSAGING_OPERATION_TYPE: step.type,
                    semconv.MESSAGING_DESTINATION_NAME: _encodable(task.queue),
                    semconv.TASK_NAME: _encodable(task.name),
                },
                any(fnmatchcase(task.name, glob) for glob in self.config.excluded_tasks)
                or any(fnmatchcase(task.queue, glob) for glob in self.config.excluded_queues),
            )
            self._fixed[key] = fixed
        return fixed

    def _attributes(
        self,
        step: Step,
        task: Task,
        fixed: dict[str, AttributeValue],
        origin: Origin,
        start_time: int | None,
    ) -> dict[str, AttributeValue]:
        attributes = fixed.copy()
        host, port = task.server or (None, None)
        for name, value in (
            (semconv.MESSAGING_MESSAGE_ID, task.id),
            (semconv.TASK_ATTEMPT, task.attempt),
            (semconv.TASK_PRIORITY, task.priority),
            (semconv.TASK_WORKER, task.worker),
            (semconv.SERVER_ADDRESS, host),
            (semconv.SERVER_PORT, port),
        ):
            if isinstance(value, str):
                attributes[name] = _encodable(value)
            elif value is not None and abs(value) < _LARGEST_INT:
                attributes[name] = value
        if step is semconv.EXECUTE and origin.submitted is not None:
            started = time.time() if start_time is None else start_time / 1e9
            attributes[semconv.TASK_WAIT] = max(0.0, started - origin.submitted)
        if task.attributes:
            attributes.update(task.attributes)
        captured = step is not semconv.DISPATCH and task.name in self.config.capture_arguments
        if captured and task.arguments is not None:
            try:
                attributes.update(self._captured(task.name, task.arguments()))
            except Exception as error:  # noqa: BLE001 - they need not fit the task's function
                self._report(("capture_arguments", task.name), error)
        return attributes

    def _captured(
        self, task: str, arguments: Mapping[str, object]
    ) -> Iterator[tuple[str, AttributeValue]]:
        for argument in self.config.capture_arguments[task] & arguments.keys():
            yield semconv.TASK_ARGUMENT + argument, _captured_value(arguments[argument])

    def describe(self, span: Span, step: Step, outcome: Outcome) -> None:
        """Write what the operation came to into its span."""
        if step is not semconv.SUBMIT:
            span.set_attribute(self._status, outcome.status)
        self.blame(span, outcome)

    def blame(self, span: Span, outcome: Outcome) -> None:
        """Make the span an error if the outcome is one."""
        error = outcome.error
        error_type = _error_type(outcome)
        if error_type is None:
            return
        span.set_attribute(semconv.ERROR_TYPE, error_type)
        if error is None or not self.config.exception_messages:
            span.set_status(Status(StatusCode.ERROR, error_type))
        else:
            span.set_status(Status(StatusCode.ERROR, _message(error) or error_type))
        if error is not None:
            span.add_event("exception", self._event(error, error_type))

    def _event(self, error: BaseException, error_type: str) -> dict[str, AttributeValue]:
        event: dict[str, AttributeValue] = {semconv.EXCEPTION_TYPE: error_type}
        if self.config.exception_messages:
            event[semconv.EXCEPTION_MESSAGE] = _message(error)
            lines = traceback.format_exception(type(error), error, error.__traceback__)
        else:  # neither the message nor source lines, which may hold it as a literal
            frames = traceback.extract_tb(error.__traceback__)
            lines = [f'  File "{at.filename}", line {at.lineno}, in {at.name}\n' for at in frames]
        event[semconv.EXCEPTION_STACKTRACE] = _masked("".join(lines))
        return event


def _masked(text: str) -> str:
    return _encodable(_CREDENTIALS.sub("***", text))


def _encodable(text: str) -> str:
    """Replace what is no Unicode: a lone surrogate would cost the whole batch its export."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _captured_value(value: object) -> AttributeValue:
    if isinstance(value, (bool, int, float)):
        return value
    try:
        return _encodable(value if isinstance(value, str) else repr(value))
    except Exception as error:  # noqa: BLE001 - the host's object may be unprintable
        pass_on(error)
        return f"<{type(error).__name__}>"


def _message(error: BaseException) -> str:
    try:
        return _masked(str(error))
    except Exception as unprintable:  # noqa: BLE001 - the host's exception may be unprintable
        pass_on(unprintable)
        return ""


def _error_type(outcome: Outcome) -> str | None:
    if outcome.expected:
        return None
    if outcome.error_type is not None:
        return _encodable(outcome.error_type)
    if outcome.error is None:
        return semconv.OTHER_ERROR if outcome.status == "failure" else None
    return error_name(outcome.error)
