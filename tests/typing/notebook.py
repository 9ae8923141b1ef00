"""What a notebook's user writes; mypy reads it, nothing runs it."""

from otel_queue_bridge import notebook
from otel_queue_bridge.otlp import Span

with notebook.capture(listen=True, port=4319) as spans:
    first: Span = next(iter(spans.wait(tasks=3, timeout=10)))
environment: dict[str, str] = spans.environment
submitted = sum(row["submitted"] for row in spans.queues())
view: notebook.View = notebook.connect("127.0.0.1:4318")
trace: notebook.Spans = view.trace(task_id="t1", timeout=10)
newest: notebook.Table = view.traces(limit=5)
