"""Control over traces where it is least plain: killed children, batches, runs inside the submit."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from rq import Retry

from otel_queue_bridge.otlp import Receiver, Span
from tests.brokers.rq_fleet import Fleet
from tests.brokers.shop import ROOT, Shop
from tests.servers import LIMIT, Processes, Valkey

PREFIX = "OTEL_PYTHON_QUEUE_BRIDGE_"
LINKED = {PREFIX + "RETRIES": "link"}


def executes(spans: list[Span]) -> list[Span]:
    return [span for span in spans if span.name.startswith("execute")]


def check_retry(spans: list[Span]) -> None:
    """Check that the second attempt has a trace apart, which links to the first."""
    first, second = executes(spans)
    (again,) = (
        span
        for span in spans
        if span.name.startswith("submit") and span.trace_id == second.trace_id
    )
    assert (first.status, first.attributes["task.status"]) == ("ERROR", "retry")
    assert [(link.trace_id, link.span_id) for link in again.links] == [
        (first.trace_id, first.span_id)
    ]
    assert again.parent_id == ""
    assert again.trace_id != first.trace_id
    (dispatch,) = (span for span in spans if span.span_id == second.parent_id)
    assert dispatch.parent_id == again.span_id


def test_the_retry_of_a_killed_job_links_to_the_attempt_that_the_worker_reports(
    valkey: Valkey, receiver: Receiver, processes: Processes, tmp_path: Path
) -> None:
    fleet = Fleet(valkey.url, receiver, processes, tmp_path, "tests.brokers.rq_app")
    fleet.worker(**LINKED)
    fleet.enqueue("killed_and_retried", retry=Retry(max=1))
    check_retry(fleet.spans(lambda spans: len(executes(spans)) == 2))


@pytest.mark.skipif(
    tuple(map(int, version("celery").split(".")[:2])) < (5, 7), reason="it retries none before 5.7"
)
def test_the_retry_of_a_killed_task_links_to_the_attempt_that_the_worker_reports(
    redis_url: str, receiver: Receiver, processes: Processes, tmp_path: Path
) -> None:
    shop = Shop(redis_url, receiver, processes, tmp_path, "tests.brokers.celery_outcomes_app")
    folder = {"APP_NOTES": str(tmp_path), **LINKED}
    shop.worker("-P", "prefork", "-c", "1", **folder)
    name = json.dumps(["SIGKILL, retried"])
    assert shop.submit(name, name, **folder) == 0
    check_retry(shop.spans(lambda spans: len(executes(spans)) == 2))


def test_a_batch_of_linked_tasks_is_linked_whatever_relation_says(
    redis_url: str, receiver: Receiver, processes: Processes, tmp_path: Path
) -> None:
    shop = Shop(redis_url, receiver, processes, tmp_path, "tests.brokers.celery_batches_app")
    options = {PREFIX + "RELATION": "none"}
    shop.worker("-P", "prefork", "-c", "1", **options)
    assert shop.submit("good", "3", **{PREFIX + "LINKED_TASKS": "goo?"}) == 0
    spans = shop.spans(lambda spans: len(executes(spans)) == 1)
    submits = {span.span_id for span in spans if span.name == "submit good"}
    assert len(submits) == 3
    for name, number in (("execute good", 1), ("dispatch good", 3)):
        found = [span for span in spans if span.name == name]
        assert len(found) == number
        assert {link.span_id for span in found for link in span.links} == submits


INSIDE = """if True:
    import sys
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    import otel_queue_bridge
    exporter = InMemorySpanExporter()
    trace.set_tracer_provider(TracerProvider())
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    otel_queue_bridge.instrument()
    {submit}
    for asked in ("child", "link", "none"):
        exporter.clear()
        with trace.get_tracer("user").start_as_current_span("caller"):
            with otel_queue_bridge.relation(asked):
                submit()
        spans = {{span.name.partition(" ")[0]: span for span in exporter.get_finished_spans()}}
        submitted, execute = spans["submit"], spans["execute"]
        assert set(spans) == {{"submit", "execute", "caller"}}, spans
        together = submitted.context.trace_id == execute.context.trace_id
        links = [link.context.span_id for link in execute.links]
        assert together == (asked == "child"), asked
        assert links == ([submitted.context.span_id] if asked == "link" else []), asked
        assert submitted.parent.span_id == spans["caller"].context.span_id
"""
CELERY = """
    from celery import Celery
    def inside():
        pass
    app = Celery("app", broker="memory://")
    app.conf.task_always_eager = True
    submit = app.task(inside).delay
"""
RQ = """
    from redis import Redis
    from rq import Queue
    queue = Queue(is_async=False, connection=Redis.from_url(sys.argv[1]))
    submit = lambda: queue.enqueue("time.time")
"""


@pytest.mark.parametrize("submit", [CELERY, RQ], ids=["celery", "rq"])
def test_a_run_inside_its_submit_obeys_a_block(valkey: Valkey, submit: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", INSIDE.format(submit=submit.strip()), valkey.url],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stderr
