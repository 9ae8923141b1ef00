"""Submit two jobs and run them with a link for each, and again with a link for one of them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from running import example


def sign_up(run, **options):
    run.receiver.clear()
    run.finish("web", "opentelemetry-instrument python signup.py")
    run.finish("worker", "opentelemetry-instrument rq worker --burst", **options)
    spans = run.spans("signup", "execute tasks.welcome", "execute tasks.report")
    run.show(spans)
    names = {span.span_id: span.name for span in spans}
    print()
    for span in spans:
        for link in span.links:
            print(f"{span.name} is linked to {names[link.span_id]}")


with example(__file__) as run:
    run.valkey()
    sign_up(run, OTEL_PYTHON_QUEUE_BRIDGE_RELATION="link")
    sign_up(run, OTEL_PYTHON_QUEUE_BRIDGE_LINKED_TASKS="tasks.report")
