"""What mypy must refuse: where it finds no error, the comment that expects one is an error."""

import otel_queue_bridge
from otel_queue_bridge.adapter import Arguments, Hook, Recorder, Task
from otel_queue_bridge.testing import QueueSpans

otel_queue_bridge.instrument(relatoin="link")  # type: ignore[call-arg]
otel_queue_bridge.instrument(relation="parent")  # type: ignore[arg-type]
otel_queue_bridge.instrument(flush_timeout="soon")  # type: ignore[arg-type]
otel_queue_bridge.instrument(excluded_tasks=7)  # type: ignore[arg-type]
otel_queue_bridge.instrument(submit_hook=print, execute_hook=len)  # type: ignore[arg-type]
otel_queue_bridge.instrument(7)  # type: ignore[arg-type]
otel_queue_bridge.uninstrument(queue="celery")  # type: ignore[call-arg]
otel_queue_bridge.nonsense  # type: ignore[attr-defined]  # noqa: B018 - reading it is the mistake
otel_queue_bridge.__version__ + 1  # type: ignore[operator]

Task("mail", "low", carrier=({},))  # type: ignore[arg-type]
Task("mail", "low", carrier="traceparent")  # type: ignore[arg-type]
Task("mail")  # type: ignore[call-arg]
Task("mail", "low", arguments=lambda: {"to": "ann"})  # type: ignore[arg-type, return-value]
Hook("module:name", lambda call: None)  # type: ignore[arg-type, misc]
Arguments()  # type: ignore[call-arg]


def advice(recorder: Recorder) -> None:
    recorder.submit(Task("mail", "low", carrier=({}, {})))  # type: ignore[arg-type]
    recorder.watch_workers(lambda: [7])  # type: ignore[list-item]
    recorder.executed(Task("mail", "low"))  # type: ignore[attr-defined]


def test(queue_spans: QueueSpans) -> None:
    queue_spans.wait(status="failed")  # type: ignore[arg-type]
    queue_spans.assert_traced(task="mail")  # type: ignore[call-arg]
    queue_spans.env  # type: ignore[attr-defined]  # noqa: B018 - reading it is the mistake
