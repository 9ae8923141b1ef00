"""A user's Celery app that sets up the SDK and the instrumentation where the test wants it."""

import os
from collections.abc import Callable

from celery import Celery, signals
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import otel_queue_bridge

app = Celery("app", broker=os.environ["APP_BROKER"])
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    beat_schedule={"often": {"task": "inner", "schedule": 0.2}},
    beat_schedule_filename=os.environ.get("APP_SCHEDULE", ""),
)


def set_up() -> None:
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter())
    metrics.set_meter_provider(MeterProvider([reader]))


def at(moment: str, action: Callable[[], object]) -> None:
    """Do it now, or when Celery sends the signal of this name."""
    if moment == "import":
        action()
    elif moment:
        getattr(signals, moment).connect(lambda **_: action(), weak=False)


at(os.environ.get("APP_SDK", ""), set_up)
at(os.environ.get("APP_INSTRUMENT", ""), lambda: otel_queue_bridge.instrument("celery"))


@app.task(name="inner")
def inner() -> None:
    pass


@app.task(name="outer")
def outer() -> None:
    with trace.get_tracer("user").start_as_current_span("user"):
        inner.delay()
