"""The things to measure: each path of a task, under each variant."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, NamedTuple

from opentelemetry import context, metrics, trace
from opentelemetry.propagate import inject
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

import otel_queue_bridge
from benchmarks.floor import Floor
from benchmarks.paths import QUEUES, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from benchmarks.paths import Paths

PATHS = ("submit", "work")
"""`work` is everything that a worker does with a message: receive, dispatch, execute, callbacks."""
MODES = ("recording", "sampled out", "no SDK")


class Cell(NamedTuple):
    """One thing to measure."""

    queue: str
    path: str
    mode: str
    who: str


def nothing(queue: str, path: str) -> Cell:
    return Cell(queue, path, "no SDK", "nothing")


def cells(
    queues: Iterable[str] = QUEUES, paths: Iterable[str] = PATHS, *, contrib: bool = True
) -> tuple[Cell, ...]:
    """Return all that there is to measure: contrib instruments only one of the queues."""
    return tuple(
        cell
        for queue in queues
        for path in paths
        for cell in (
            nothing(queue, path),
            *(
                Cell(queue, path, mode, who)
                for mode in MODES
                for who in ("floor", "ours", "contrib")
                if (who, mode) != ("floor", "no SDK")
                if who != "contrib" or (contrib and queue == "celery")
            ),
        )
    )


class NoExporter(SpanExporter):
    def export(self, _: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Runner:
    """Runs the tasks of one cell; the process must run no other cell."""

    def __init__(self, cell: Cell) -> None:
        self._spans: TracerProvider | None = None
        if cell.mode != "no SDK":
            self._spans = _set_sdk(sampled=cell.mode == "recording")
            # A submit has a parent, as in a web handler.
            caller = trace.get_tracer(__name__).start_span("POST")
            context.attach(trace.set_span_in_context(caller))
        paths = load(cell.queue)
        if cell.who == "ours":
            otel_queue_bridge.instrument(cell.queue)
        elif cell.who == "contrib":
            from opentelemetry.instrumentation.celery import CeleryInstrumentor

            CeleryInstrumentor().instrument()
        self._run_one = _prepared(cell, paths())
        gc.collect()
        gc.freeze()

    def run(self, tasks: int) -> None:
        run_one = self._run_one
        for _ in range(tasks):
            run_one()

    def timed(self, tasks: int) -> float:
        """Return the CPU time of this thread, in µs per task."""
        gc.collect()
        began = time.thread_time_ns()
        self.run(tasks)
        taken = time.thread_time_ns() - began
        if self._spans is not None:
            self._spans.force_flush()  # now, or a thread would do it while we measure
        return taken / 1000 / tasks


def _prepared(cell: Cell, paths: Paths) -> Callable[[], None]:
    floor = Floor(cell.queue, paths.facts) if cell.who == "floor" else None
    paths.submit()
    if cell.path == "submit":
        return floor.submitting(paths.submit) if floor else paths.submit
    carrier: dict[str, str] = {}
    inject(carrier)
    # A worker does not run its tasks in the context of a caller.
    context.attach(context.Context())
    work = paths.worker()
    return floor.working(work, carrier) if floor else work


def _set_sdk(*, sampled: bool) -> TracerProvider:
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON if sampled else ALWAYS_OFF))
    provider.add_span_processor(BatchSpanProcessor(NoExporter()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    return provider
