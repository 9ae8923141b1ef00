"""The floor: the SDK calls that our spans and metrics need, written around plain Celery."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from opentelemetry import context, metrics, trace
from opentelemetry.metrics import Observation
from opentelemetry.propagate import extract, inject
from opentelemetry.trace import SpanKind

from benchmarks import celery_paths
from otel_queue_bridge import semconv

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from opentelemetry.metrics import CallbackOptions
    from opentelemetry.util.types import AttributeValue

_TASK = "benchmarks.celery_paths.add"
_METRIC = {
    semconv.MESSAGING_SYSTEM: "celery",
    semconv.MESSAGING_DESTINATION_NAME: "celery",
    semconv.TASK_NAME: _TASK,
}
_STATUS = {**_METRIC, semconv.TASK_STATUS: "success"}


def _attributes(operation: str, kind: str) -> dict[str, AttributeValue]:
    return {
        **_METRIC,
        semconv.MESSAGING_OPERATION_NAME: operation,
        semconv.MESSAGING_OPERATION_TYPE: kind,
    }


_OWN = {"celery.reply_to": "reply", "celery.root_id": "id", "celery.transport": "memory"}
_SUBMIT = _attributes("submit", "send")
_DISPATCH = _attributes("dispatch", "receive")
_EXECUTE = _attributes("execute", "process")


class _Count:
    """A table of counts, which costs as much as ours has to."""

    def __init__(self, name: str, attributes: Mapping[str, str]) -> None:
        self._key = tuple(attributes.items())
        self._lock = threading.Lock()
        self._counts: dict[tuple[tuple[str, str], ...], int] = {}
        metrics.get_meter(__name__).create_observable_counter(name, [self._observe])

    def add(self) -> None:
        with self._lock:
            self._counts[self._key] = self._counts.get(self._key, 0) + 1

    def _observe(self, _: CallbackOptions) -> list[Observation]:
        return [Observation(count, dict(key)) for key, count in self._counts.items()]


class Floor:
    def __init__(self) -> None:
        self._tracer = trace.get_tracer(__name__)
        self._submitted = _Count("task.submitted", _METRIC)
        self._dispatched = _Count("task.dispatched", _METRIC)
        self._completed = _Count("task.completed", _STATUS)
        meter = metrics.get_meter(__name__)
        self._duration, self._wait = (
            meter.create_histogram(name, "s", explicit_bucket_boundaries_advisory=semconv.BUCKETS)
            for name in ("task.duration", "task.wait")
        )

    def submit(self) -> None:
        known = {semconv.MESSAGING_MESSAGE_ID: "id", semconv.TASK_ATTEMPT: 1}
        attributes = {**_SUBMIT, **_OWN, **known}
        span, current = self._start(f"submit {_TASK}", SpanKind.PRODUCER, attributes)
        inject({}, current)
        token = context.attach(current)
        celery_paths.submit()
        span.end()
        context.detach(token)
        self._submitted.add()

    def around(
        self, work: Callable[[Mapping[str, Any]], None]
    ) -> Callable[[Mapping[str, Any]], None]:
        def instrumented(headers: Mapping[str, Any]) -> None:
            carrier = {**headers}
            known = {
                **_OWN,
                semconv.MESSAGING_MESSAGE_ID: headers["id"],
                semconv.TASK_ATTEMPT: 1,
                semconv.TASK_PRIORITY: 0,
                semconv.TASK_WORKER: "bench@host",
            }
            attributes = {**_DISPATCH, **known}
            span, current = self._start(
                f"dispatch {_TASK}", SpanKind.CLIENT, attributes, extract(carrier)
            )
            inject(carrier, current)
            span.end()
            self._dispatched.add()

            began = time.time()
            attributes = {**_EXECUTE, **known, semconv.TASK_WAIT: 0.1}
            span, current = self._start(
                f"execute {_TASK}", SpanKind.CONSUMER, attributes, extract(carrier)
            )
            token = context.attach(current)
            work(headers)
            span.set_attribute(semconv.TASK_STATUS, "success")
            span.end()
            context.detach(token)
            self._completed.add()
            self._duration.record(time.time() - began, _STATUS)
            self._wait.record(0.1, _METRIC)

        return instrumented

    def _start(
        self,
        name: str,
        kind: SpanKind,
        attributes: Mapping[str, AttributeValue],
        parent: context.Context | None = None,
    ) -> tuple[trace.Span, context.Context]:
        span = self._tracer.start_span(name, parent, kind, attributes)
        return span, trace.set_span_in_context(span, parent)
