"""The apps of the measured workers: one task each, which increments a number in Valkey.

Each app is set up where it is imported, as the environment says: in the worker, and in the process
that submits.
"""

from __future__ import annotations

import os

URL, MODE = "BENCH_URL", "BENCH_MODE"
COUNTER = "done"

NOTHING, SDK, OURS, TWO_SPANS, CONTRIB = MODES = (
    "nothing",
    "SDK alone",
    "ours",
    "ours, dispatch_spans=false",
    "contrib",
)
SPANS = {NOTHING: 0, SDK: 0, OURS: 2, TWO_SPANS: 1, CONTRIB: 1}
"""Those that a worker sends for a task."""


def start_sdk() -> None:
    """Set up the SDK as `opentelemetry-instrument` does, and instrument nothing."""
    from opentelemetry.instrumentation.auto_instrumentation import initialize

    os.environ["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "*"
    initialize()


def set_up(queue: str) -> None:
    """Have this process send the telemetry that the measured mode has."""
    mode = os.environ[MODE]
    if mode != NOTHING:
        start_sdk()
    if mode in (OURS, TWO_SPANS):
        import otel_queue_bridge

        otel_queue_bridge.instrument(queue, dispatch_spans=mode == OURS)
    elif mode == CONTRIB:
        from opentelemetry.instrumentation.celery import CeleryInstrumentor

        CeleryInstrumentor().instrument()
