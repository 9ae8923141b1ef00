"""How the spans of one queue look: names, attributes, ids and errors."""

from __future__ import annotations

import inspect
import time
from copy import copy
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NonRecordingSpan, Status, StatusCode

from otel_queue_bridge import failures, semconv
from otel_queue_bridge.adapter import SUCCESS, error_name
from otel_queue_bridge.failures import LONGEST, encodable
from otel_queue_bridge.instruments import SCOPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.trace import Span, Tracer
    from opentelemetry.util.types import AttributeValue

    from otel_queue_bridge.adapter import Arguments, Outcome, Task
    from otel_queue_bridge.config import Config
    from otel_queue_bridge.failures import Reports
    from otel_queue_bridge.propagation import Origin
    from otel_queue_bridge.semconv import Step

_VERSION = version("otel-queue-bridge")

NO_SPAN = NonRecordingSpan(INVALID_SPAN_CONTEXT)
"""Stands in when no span is wanted: of an excluded task, or a dispatch that is switched off."""

LARGEST_INT = 1 << 63
"""What OTLP has no room for, from a broker, would cost the whole batch its export."""

_CACHED = 1000
"""Attribute sets kept; task names from outside may be endless."""


class Tracing:
    """The spans of one queue library, as one configuration wants them."""

    def __init__(
        self, system: str, config: Config, span_names: Mapping[str, str], reports: Reports
    ) -> None:
        self._config = config
        self._system = system
        self._transport = semconv.transport_attribute(system)
        self._span_names = span_names
        self._reports = reports
        self._status = semconv.status_attribute(config.naming)
        self._hooks = {"submit": config.submit_hook, "execute": config.execute_hook}
        self._tracer: Tracer | None = None
        self.records = False
        """Whether there is an SDK that records spans, as far as is known."""
        self._fixed = lru_cache(_CACHED)(self._fixed_for)

    def active(self) -> bool:
        """Tell whether there is an SDK that records spans; it may be set up after instrument()."""
        if self._tracer is None:
            provider = self._config.tracer_provider or trace.get_tracer_provider()
            if not isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
                tracer = provider.get_tracer(SCOPE, _VERSION, schema_url=semconv.SCHEMA_URL)
                # With OTEL_SDK_DISABLED the SDK hands out one that does nothing.
                self.records = not isinstance(tracer, trace.NoOpTracer)
                self._tracer = tracer
        return self.records

    @property
    def tracer(self) -> Tracer:
        return self._tracer or trace.NoOpTracer()

    def start(self, step: Step, task: Task, origin: Origin, start_time: int | None = None) -> Span:
        """Start the span of one operation; NO_SPAN if the task is excluded."""
        name, fixed, excluded = self._fixed(
            step.name, task.name, task.queue, task.server, task.transport, task.worker
        )
        if excluded:
            return NO_SPAN
        parent = origin.parent
        doubtful = parent.is_valid and not parent.trace_flags.sampled
        attributes = fixed if doubtful else self._attributes(step, task, fixed, origin, start_time)
        tracer = self._tracer or self.tracer
        if origin.span_id and step is semconv.EXECUTE:
            tracer = _settled(tracer, origin.span_id)
        span = tracer.start_span(
            name, origin.context, step.kind, attributes, origin.links, start_time
        )
        if span.is_recording():
            if doubtful:  # a sampler that does not follow its parent
                span.set_attributes(self._attributes(step, task, fixed, origin, start_time))
            hook = self._hooks.get(step.name)
            if hook is not None:
                self._run_hook(hook, span, task)
        return span

    def excludes(self, task: Task) -> bool:
        """Tell whether the user wants no span of this task."""
        return self._excluded(task.name, task.queue)

    def _run_hook(self, hook: Callable[[Span, Task], None], span: Span, task: Task) -> None:
        try:
            hook(span, task)
        except Exception as error:  # noqa: BLE001 - the user's
            self._reports.report(hook, error, "the span goes without it")

    def _fixed_for(  # noqa: PLR0913, PLR0917 - called by `start` only
        self,
        step_name: str,
        name: str,
        queue: str,
        server: tuple[str, int | None] | None,
        transport: str | None,
        worker: str | None,
    ) -> tuple[str, dict[str, AttributeValue], bool]:
        """Return what is the same for every such task: name, attributes, excluded or not."""
        step = semconv.STEPS[step_name]
        task, destination = encodable(name), encodable(queue)
        system_name = self._span_names.get(step_name, f"{self._system}.{step.system_name}")
        span_name = semconv.span_name(
            self._config.naming, step, task=task, queue=destination, system_name=system_name
        )
        attributes: dict[str, AttributeValue] = {
            semconv.MESSAGING_SYSTEM: self._system,
            semconv.MESSAGING_OPERATION_NAME: step_name,
            semconv.MESSAGING_OPERATION_TYPE: step.type,
            semconv.MESSAGING_DESTINATION_NAME: destination,
            semconv.TASK_NAME: task,
        }
        host, port = server or (None, None)
        _add(attributes, semconv.TASK_WORKER, worker)
        _add(attributes, semconv.SERVER_ADDRESS, host)
        _add(attributes, semconv.SERVER_PORT, port)
        _add(attributes, self._transport, transport)
        return span_name, attributes, self._excluded(name, queue)

    def _excluded(self, task: str, queue: str) -> bool:
        return any(fnmatchcase(task, glob) for glob in self._config.excluded_tasks) or any(
            fnmatchcase(queue, glob) for glob in self._config.excluded_queues
        )

    def _attributes(
        self,
        step: Step,
        task: Task,
        fixed: dict[str, AttributeValue],
        origin: Origin,
        start_time: int | None,
    ) -> dict[str, AttributeValue]:
        attributes = fixed.copy()
        _add(attributes, semconv.MESSAGING_MESSAGE_ID, task.id)
        if task.attempt is not None:
            _add(attributes, semconv.TASK_ATTEMPT, task.attempt)
        if task.priority is not None:
            _add(attributes, semconv.TASK_PRIORITY, task.priority)
        schedule = task.schedule or origin.schedule
        if schedule:
            _add(attributes, semconv.TASK_SCHEDULE, schedule[:LONGEST])
        if task.batch:
            attributes[semconv.MESSAGING_BATCH_MESSAGE_COUNT] = len(task.batch)
        if step is semconv.EXECUTE and origin.due is not None:
            started = time.time() if start_time is None else start_time / 1e9
            attributes[semconv.TASK_WAIT] = max(0.0, started - origin.due)
        if task.attributes:
            for name, own in task.attributes.items():
                fine = not isinstance(own, str) or own.isascii()
                attributes[name] = own if fine else encodable(str(own))
        if task.arguments is not None and step is not semconv.DISPATCH:
            listed = self._config.capture_arguments.get(task.name)
            if listed:
                attributes.update(self._captured(task.arguments, listed))
        return attributes

    def _captured(
        self, arguments: Callable[[], Arguments], listed: frozenset[str]
    ) -> dict[str, AttributeValue]:
        try:
            named = _by_name(arguments())
        except Exception as error:  # noqa: BLE001 - the host's objects
            self._reports.report("capture_arguments", error, "the span goes without them")
            return {}
        return {semconv.TASK_ARGUMENT + name: _value(named[name]) for name in listed & named.keys()}

    def describe(self, span: Span, step: Step, outcome: Outcome) -> None:
        """Write what the operation came to into its span."""
        if step is not semconv.SUBMIT:
            span.set_attribute(self._status, outcome.status)
        if outcome is not SUCCESS:
            self.blame(span, outcome)

    def blame(self, span: Span, outcome: Outcome) -> None:
        """Make the span an error if the outcome is one."""
        error, error_type = outcome.error, error_type_of(outcome)
        if error_type is None:
            return
        span.set_attribute(semconv.ERROR_TYPE, error_type)
        shown = "" if error is None else self._shown(error)
        span.set_status(Status(StatusCode.ERROR, shown or error_type))
        if error is not None:
            span.add_event("exception", dict(self._event(error, error_type, shown)))

    def _shown(self, error: BaseException) -> str:
        return failures.message(error) if self._config.exception_messages else ""

    def _event(
        self, error: BaseException, error_type: str, shown: str
    ) -> Iterator[tuple[str, AttributeValue]]:
        yield semconv.EXCEPTION_TYPE, error_type
        if self._config.exception_messages:
            yield semconv.EXCEPTION_MESSAGE, shown
        trace = failures.stack_trace(error, messages=self._config.exception_messages)
        yield semconv.EXCEPTION_STACKTRACE, trace


def _add(attributes: dict[str, AttributeValue], name: str, value: str | int | None) -> None:
    """Add the value, if it is known and OTLP can hold it."""
    if isinstance(value, str):
        attributes[name] = value if value.isascii() else encodable(value)
    elif value is not None and abs(value) < LARGEST_INT:
        attributes[name] = value


class _SettledId:
    """The SDK's generator of ids, but for a span whose id is settled already."""

    def __init__(self, generator: Any, span_id: int) -> None:
        self._generator = generator
        self._span_id = span_id

    def generate_span_id(self) -> int:
        return self._span_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


def _settled(tracer: Any, span_id: int) -> Any:
    """Return a copy of an SDK's tracer for one span; the SDK shares the tracer itself."""
    generator = getattr(tracer, "id_generator", None)
    if generator is None:
        return tracer
    twin = copy(tracer)
    twin.id_generator = _SettledId(generator, span_id)
    return twin


def error_type_of(outcome: Outcome) -> str | None:
    """Return `error.type`; None if the outcome is no error."""
    if outcome.expected:
        return None
    if outcome.error_type is not None:
        return encodable(outcome.error_type)
    if outcome.error is None:
        return semconv.OTHER_ERROR if outcome.status == "failure" else None
    return error_name(outcome.error)


def _by_name(arguments: Arguments) -> Mapping[str, object]:
    """Bind what a task is called with to names, also what its `**kwargs` takes up."""
    function, args, kwargs = arguments
    if function is None:
        return kwargs
    try:
        bound = inspect.signature(function).bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):  # they need not fit, and not every callable has a signature
        return kwargs
    return {**kwargs, **bound}


def _value(value: object) -> AttributeValue:
    if isinstance(value, (bool, int, float)):
        return value
    try:
        return encodable(value if isinstance(value, str) else repr(value))
    except Exception as error:  # noqa: BLE001 - the host's object may be unprintable
        failures.pass_on(error)
        return f"<{type(error).__name__}>"
