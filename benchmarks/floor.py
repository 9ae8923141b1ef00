"""The floor: the bare SDK calls that the same spans and counts need, around a plain queue."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from opentelemetry import context, metrics, trace
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import SpanKind

from otel_queue_bridge import semconv

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.util.types import AttributeValue

    from benchmarks.paths import Facts


class Floor:
    def __init__(self, system: str, facts: Facts) -> None:
        self._system = system
        self._facts = facts
        self._metric = {
            semconv.MESSAGING_SYSTEM: system,
            semconv.MESSAGING_DESTINATION_NAME: facts.destination,
            semconv.TASK_NAME: facts.task,
        }
        self._status = {**self._metric, semconv.TASK_STATUS: "success"}
        self._tracer = trace.get_tracer(__name__)
        meter = metrics.get_meter(__name__)
        self._submitted, self._dispatched, self._completed = (
            meter.create_counter(f"task.{name}")
            for name in ("submitted", "dispatched", "completed")
        )
        self._duration, self._wait = (
            meter.create_histogram(name, "s", explicit_bucket_boundaries_advisory=semconv.BUCKETS)
            for name in ("task.duration", "task.wait")
        )

    def submitting(self, submit: Callable[[], None]) -> Callable[[], None]:
        name = f"submit {self._facts.task}"
        fixed = {**self._operation("submit", "send"), **self._facts.submitted}
        request = {semconv.MESSAGING_SYSTEM: self._system, **(self._facts.exchange or {})}

        def instrumented() -> None:
            attributes = {**fixed, semconv.MESSAGING_MESSAGE_ID: "id", semconv.TASK_ATTEMPT: 1}
            span, current = self._start(name, SpanKind.PRODUCER, attributes)
            inject({}, current)
            token = context.attach(current)
            if self._facts.exchange is None:
                submit()
            else:
                exchange, _ = self._start("nng.req_reply", SpanKind.CLIENT, {**request}, current)
                submit()
                for attribute, value in self._facts.replied.items():
                    exchange.set_attribute(attribute, value)
                exchange.end()
            span.end()
            context.detach(token)
            self._submitted.add(1, self._metric)

        return instrumented

    def working(self, work: Callable[[], None], received: Mapping[str, str]) -> Callable[[], None]:
        """Return the work of a worker that receives this carrier with each message."""
        dispatch, execute = (f"{operation} {self._facts.task}" for operation in _WORK)
        on_dispatch, on_execute = (
            {**self._operation(operation, kind), **self._facts.worked}
            for operation, kind in _WORK.items()
        )
        on_dispatch.update(self._facts.dispatched)

        def instrumented() -> None:
            carrier = {**received}
            known: dict[str, AttributeValue] = {
                semconv.MESSAGING_MESSAGE_ID: "id",
                semconv.TASK_ATTEMPT: 1,
            }
            span, current = self._start(
                dispatch, SpanKind.CLIENT, {**on_dispatch, **known}, extract(carrier)
            )
            inject(carrier, current)
            span.end()
            self._dispatched.add(1, self._metric)

            began = time.time()
            attributes = {**on_execute, **known, semconv.TASK_WAIT: 0.1}
            span, current = self._start(execute, SpanKind.CONSUMER, attributes, extract(carrier))
            token = context.attach(current)
            work()
            span.set_attribute(semconv.TASK_STATUS, "success")
            span.end()
            context.detach(token)
            self._completed.add(1, self._status)
            self._duration.record(time.time() - began, self._status)
            self._wait.record(0.1, self._metric)

        return instrumented

    def _operation(self, name: str, kind: str) -> dict[str, AttributeValue]:
        return {
            **self._metric,
            semconv.MESSAGING_OPERATION_NAME: name,
            semconv.MESSAGING_OPERATION_TYPE: kind,
        }

    def _start(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, AttributeValue],
        parent: context.Context | None = None,
    ) -> tuple[trace.Span, context.Context]:
        span = self._tracer.start_span(name, parent, kind, attributes)
        return span, trace.set_span_in_context(span, parent)


_WORK = {"dispatch": "receive", "execute": "process"}
