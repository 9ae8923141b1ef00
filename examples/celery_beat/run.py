"""Start beat and a worker, and show the traces of two runs of the schedule."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from running import example

with example(__file__) as run:
    run.valkey()
    worker = "opentelemetry-instrument celery -A shop worker --concurrency 1 --loglevel INFO"
    run.start("worker", worker)
    schedule = run.temporary / "schedule"
    run.start("beat", f"opentelemetry-instrument celery -A shop beat --schedule {schedule}")
    spans = run.spans(*["execute shop.count"] * 2)
    runs = [span for span in spans if span.name == "execute shop.count"][:2]
    for one in runs:
        run.show([span for span in spans if span.trace_id == one.trace_id])
        print(f"trace {one.trace_id}, task.schedule: {one.attributes['task.schedule']}")
