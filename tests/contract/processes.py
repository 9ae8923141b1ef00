"""Start-up of the contract's processes: `python -m tests.contract.processes MODE APP [command]`.

Without a command it is a caller, which submits what it reads from its standard input; with one
it becomes a worker. Both are instrumented as MODE says; see `otel_queue_bridge.testing.Rig`.
"""

import importlib
import json
import runpy
import sys
from types import ModuleType
from typing import Any

from opentelemetry import baggage, trace
from opentelemetry.context import attach
from opentelemetry.trace import Span, format_trace_id

from otel_queue_bridge.adapter import Task


def main(mode: str, app: str, command: list[str]) -> None:
    module = prepare(mode, app)
    if command:
        sys.argv = command
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        return
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(submit(module, **json.loads(line))), flush=True)


def prepare(mode: str, app: str) -> ModuleType:
    """Import the app, and instrument, break or undo it as the mode says."""
    if mode in ("early", "undone"):
        import otel_queue_bridge

        otel_queue_bridge.instrument()
    if mode == "broken":
        from otel_queue_bridge import operation

        setattr(operation.Operations, "_open", None)  # noqa: B010 - the private heart of it, on purpose
    if mode == "hooked":
        import otel_queue_bridge

        otel_queue_bridge.instrument(submit_hook=note, execute_hook=note)
    module = importlib.import_module(app)
    if mode == "late":
        import otel_queue_bridge

        otel_queue_bridge.instrument()
    if mode == "undone":
        otel_queue_bridge.uninstrument()
    return module


def note(span: Span, task: Task) -> None:
    span.set_attribute("hook", task.name)


def submit(module: ModuleType, task: str, **options: Any) -> dict[str, str]:
    """Submit one task inside a span of the caller's own."""
    tracer = trace.get_tracer("user")
    answer = {"id": "", "error": ""}
    attach(baggage.set_baggage("user", "alice"))
    with tracer.start_as_current_span("caller") as span:
        try:
            answer["id"] = module.submit(task, **options)
        except Exception as error:  # noqa: BLE001 - the test asks which
            answer["error"] = type(error).__name__
            with tracer.start_as_current_span("after"):
                pass
    # What the body leaves behind, where its library does not tell it the id.
    answer["mark"] = getattr(module, "marks", {}).get(answer["id"], answer["id"])
    answer["trace"] = format_trace_id(span.get_span_context().trace_id)
    return answer


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
