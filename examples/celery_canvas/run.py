"""Start a worker, submit a chain, a group and a chord, and show their traces."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from running import example

with example(__file__) as run:
    run.valkey()
    run.env["OTEL_PYTHON_QUEUE_BRIDGE_DISPATCH_SPANS"] = "false"  # shorter traces
    worker = "opentelemetry-instrument celery -A shop worker --concurrency 1 --loglevel INFO"
    run.start("worker", worker, ready=" ready.")
    print(run.finish("web", "opentelemetry-instrument python checkout.py"))
    run.show(
        run.spans(
            *("execute shop.pick", "execute shop.pack", "execute shop.ship"),
            *["execute shop.price"] * 4,
            "execute shop.total",
        )
    )
