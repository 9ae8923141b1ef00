"""Start a worker, submit a task that fails twice, and show its attempts and what was counted."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from running import example

with example(__file__) as run:
    run.valkey()
    command = "opentelemetry-instrument dramatiq shop --processes 1 --threads 1"
    worker = run.start("worker", command, ready="ready for action")
    run.finish("web", "opentelemetry-instrument python shop.py")
    spans = run.spans(*["execute charge"] * 3)
    worker.stop()  # with its last export
    run.show(spans)
    print()
    for span in spans:
        if span.name == "execute charge":
            told = [span.attributes.get(key) for key in ("task.attempt", "task.status")]
            print("attempt", *told, span.attributes.get("error.type", ""))
    run.metrics("submitted", "dispatched", "retried", "completed")
