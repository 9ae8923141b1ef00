"""Enqueue three jobs, let a worker run them all, and show the trace and what was counted."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from running import example

with example(__file__) as run:
    run.valkey()
    run.finish("web", "opentelemetry-instrument python upload.py")
    run.finish("worker", "opentelemetry-instrument rq worker --burst")
    run.show(run.spans("execute tasks.resize", "execute tasks.publish", "execute tasks.check"))
    run.metrics("submitted", "completed")
