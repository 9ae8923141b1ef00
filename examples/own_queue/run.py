"""Start Valkey and a worker, take one order, show its trace and the metrics; then end it all."""

import sys
from importlib.metadata import entry_points
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from running import example

with example(__file__) as run:
    if not entry_points(group="otel_queue_bridge.adapters", name="own_queue"):
        run.install(run.folder / "telemetry")
    run.valkey()
    command = "opentelemetry-instrument python -m own_queue shop"
    worker = run.start("worker", command, ready="takes jobs")
    run.finish("web", "opentelemetry-instrument python shop.py")
    spans = run.spans("execute pack", "execute ship", "execute ship")
    worker.stop()  # with its last export
    run.show(spans)
    run.metrics(
        *("submitted", "dispatched", "retried", "completed"),
        *("workers.active", "workers.busy", "queue.depth", "queue.delayed", "oldest"),
    )
