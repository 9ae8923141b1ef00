"""What a user writes; mypy reads it, nothing runs it."""

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import otel_queue_bridge
from otel_queue_bridge.adapter import Task
from otel_queue_bridge.testing import QueueCollector, QueueSpans


def hook(span: Span, task: Task) -> None:
    span.set_attribute("shop.task", task.name)


def name(task: Task) -> str | None:
    return None if task.arguments is None else str(task.arguments().kwargs["job"])


def attributes(task: Task) -> dict[str, str | bool | int]:
    return {"shop.team": task.name.partition(".")[0], "shop.urgent": task.priority == "high"}


otel_queue_bridge.instrument()
with otel_queue_bridge.relation("link"):
    pass
otel_queue_bridge.instrument("celery", relation="link")
otel_queue_bridge.instrument(
    "celery",
    "rq",
    queues=["celery", "rq"],
    naming="system",
    relation="none",
    linked_tasks=["report.*"],
    retries="link",
    link_after=60,
    dispatch_spans=False,
    metrics=True,
    queue_depth=False,
    excluded_tasks=("health.*",),
    excluded_queues="low,lower",
    capture_arguments={"mail": ["to", "subject"]},
    exception_messages=False,
    max_task_names=50,
    max_queue_names=50,
    suppress_polling=False,
    untested_versions=True,
    flush_timeout=0.5,
    child_export="own",
    conflicts="yield",
    propagator=TraceContextTextMapPropagator(),
    tracer_provider=TracerProvider(),
    meter_provider=MeterProvider(),
    submit_hook=hook,
    execute_hook=hook,
    task_name=name,
    metric_attributes=attributes,
)
otel_queue_bridge.uninstrument()
otel_queue_bridge.uninstrument("celery", "rq")
version: str = otel_queue_bridge.__version__
error: type[ValueError] = otel_queue_bridge.ConfigError


def test_in_process(queue_spans: QueueSpans) -> None:
    with queue_spans.span("signup") as span:
        span.set_attribute("shop.user", "ada")
    queue_spans.assert_traced(parent="signup", task="shop.welcome")
    names: list[str] = [
        run.name for run in queue_spans.wait(task="shop.*", status="retry", count=2)
    ]
    provider: TracerProvider = queue_spans.tracer_provider
    print(queue_spans.tree().splitlines(), names, queue_spans.spans(), provider)


def test_worker(queue_collector: QueueCollector, queue_collector_env: dict[str, str]) -> None:
    env: dict[str, str] = queue_collector.env | queue_collector_env
    run = queue_collector.wait(task="shop.welcome", timeout=5)[0]
    print(env, run.attributes["task.status"], run.kind, run.status, run.links)
