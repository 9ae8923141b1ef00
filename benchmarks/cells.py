"""The things to measure: each path of a task, under each variant."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from opentelemetry import context, metrics, trace
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.propagate import inject
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased

import otel_queue_bridge
from benchmarks import celery_paths
from benchmarks.floor import Floor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PATHS = ("submit", "work")
"""`work` is everything that a worker does with a message: receive, dispatch, execute, callbacks."""
MODES = ("recording", "sampled out", "no SDK")


class Cell(NamedTuple):
    """One thing to measure."""

    path: str
    mode: str
    who: str


NOTHING = {path: Cell(path, "no SDK", "nothing") for path in PATHS}

CELLS = (
    *NOTHING.values(),
    *(
        Cell(path, mode, who)
        for path in PATHS
        for mode in MODES
        for who in ("floor", "ours", "contrib")
        if (who, mode) != ("floor", "no SDK")
    ),
)


class NoExporter(SpanExporter):
    def export(self, _: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class Runner:
    """Runs the tasks of one cell; the process must run no other cell."""

    def __init__(self, cell: Cell) -> None:
        celery_paths.keep_from_broker()
        self._spans: TracerProvider | None = None
        if cell.mode != "no SDK":
            self._spans = _set_sdk(sampled=cell.mode == "recording")
            # A submit has a parent, as in a web handler.
            caller = trace.get_tracer(__name__).start_span("POST")
            context.attach(trace.set_span_in_context(caller))
        if cell.who == "ours":
            otel_queue_bridge.instrument("celery")
        elif cell.who == "contrib":
            CeleryInstrumentor().instrument()
        self._run_one = self._prepared(cell)
        gc.collect()
        gc.freeze()

    def _prepared(self, cell: Cell) -> Callable[[], None]:
        celery_paths.submit()
        if cell.path == "submit":
            return Floor().submit if cell.who == "floor" else celery_paths.submit
        work = celery_paths.worker()
        headers: dict[str, Any] = celery_paths.headers()
        if cell.who == "floor":
            inject(headers)
            work = Floor().around(work)
        # A worker does not run its tasks in the context of a caller.
        context.attach(context.Context())
        return lambda: work(headers)

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


def _set_sdk(*, sampled: bool) -> TracerProvider:
    provider = TracerProvider(sampler=ParentBased(ALWAYS_ON if sampled else ALWAYS_OFF))
    provider.add_span_processor(BatchSpanProcessor(NoExporter()))
    trace.set_tracer_provider(provider)
    metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
    return provider
