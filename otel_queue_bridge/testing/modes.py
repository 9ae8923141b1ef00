"""Start-up of the contract's processes: `python -m otel_queue_bridge.testing.modes MODE APP [...]`.

Without a command it is a caller, which submits what it reads from its standard input; with one
it becomes a worker. Both are instrumented as MODE says; see `rig.Rig.run`.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import runpy
import sys
import threading
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from opentelemetry import baggage, trace
from opentelemetry.context import attach
from opentelemetry.trace import Span, format_trace_id

import otel_queue_bridge
from otel_queue_bridge import instrumentor, operation
from otel_queue_bridge.testing.tasks import FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

    from otel_queue_bridge.adapter import Arguments, Task


def main(mode: str, app: str, command: list[str]) -> None:
    left: list[str] = []
    module = prepare(mode, app, left)
    if command:
        sys.argv = command
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
        return
    print(json.dumps("ready"), flush=True)
    ask = submit_in_child if mode == "forking" else submit
    for line in sys.stdin:
        print(json.dumps({**ask(module, **json.loads(line)), "left": left}), flush=True)


def prepare(mode: str, app: str, left: list[str]) -> ModuleType:
    """Import the app, and instrument, break or undo it as the mode says."""
    if mode == "broken":
        setattr(operation.Operations, "_open", None)  # noqa: B010 - the private heart of it, on purpose
    if mode == "hooked":
        otel_queue_bridge.instrument(
            submit_hook=note, execute_hook=note, task_name=name, metric_attributes=tenant
        )
    if mode in ("early", "undone", "undoable", "forking"):
        otel_queue_bridge.instrument()
    module = importlib.import_module(app)
    if mode in ("late", "cycled"):
        before = dict(places()) if mode == "cycled" else {}
        for _ in range(3 if before else 0):
            otel_queue_bridge.instrument()
            otel_queue_bridge.uninstrument()
        left += [name for name, found in places() if before.get(name, found) is not found]
        otel_queue_bridge.instrument()
    if mode == "undone":
        otel_queue_bridge.uninstrument()
    if mode == "undoable":
        wait_for_undo()
        os.register_at_fork(after_in_child=wait_for_undo)
    return module


def note(span: Span, task: Task) -> None:
    span.set_attribute("hook", task.name)


def name(task: Task) -> str | None:
    """Name the task `echo` by what it is called with."""
    if not task.name.endswith("echo"):
        return None
    assert task.arguments is not None
    return f"echo {_shown(task.arguments())}"


def tenant(task: Task) -> dict[str, str | bool | int]:
    """Tell for whom the task `echo` runs."""
    if not task.name.endswith("echo"):
        return {}
    assert task.arguments is not None
    return {"tenant": _shown(task.arguments())}


def _shown(arguments: Arguments) -> str:
    return str((*arguments.args, arguments.kwargs.get("shown"))[0])


def places() -> Iterator[tuple[str, object]]:
    """Return all that can be called in the libraries that are patched, by its full name."""
    hooks = [h for name in instrumentor.adapters() for h in instrumentor.adapter_named(name).hooks]
    tops = {hook.target.partition(":")[0].partition(".")[0] for hook in hooks}
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] not in tops:
            continue
        for key, value in tuple(vars(module).items()):
            if callable(value):
                yield f"{name}:{key}", value
            # Not `isinstance`: Django's lazy objects would be made for it.
            if issubclass(type(value), type) and value.__module__ == name:
                for attribute, found in tuple(vars(value).items()):
                    if callable(found) or isinstance(found, (classmethod, staticmethod)):
                        yield f"{name}:{key}.{attribute}", found


def wait_for_undo() -> None:
    """Undo what this process instruments once the test asks for it, if it watches a worker."""
    threading.Thread(target=_undo, daemon=True).start()


def _undo() -> None:
    asked, done = undo_files(FOLDER)
    while not asked.exists():
        time.sleep(0.02)
    if any(bridge._opened for bridge in instrumentor._bridges.values()):  # noqa: SLF001 - nobody else asks
        otel_queue_bridge.uninstrument()
        done.touch()


def undo_files(folder: Path) -> tuple[Path, Path]:
    """Return the file that asks for it and the one that answers."""
    return folder / "undo", folder / "undone"


def submit(module: ModuleType, task: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Submit one task inside a span of the caller's own, and perhaps inside `relation()`."""
    asked = kwargs.pop("relation", None)
    block = nullcontext() if asked is None else otel_queue_bridge.relation(asked)
    tracer = trace.get_tracer("user")
    answer = {"id": "", "error": ""}
    attach(baggage.set_baggage("user", "alice"))
    with tracer.start_as_current_span("caller") as span:
        try:
            with block:
                answer["id"] = module.submit(task, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the test asks which
            answer["error"] = type(error).__name__
            with tracer.start_as_current_span("after"):
                pass
    # How the task names itself, where its library does not tell it the id.
    answer["mark"] = getattr(module, "marks", {}).get(answer["id"], answer["id"])
    answer["trace"] = format_trace_id(span.get_span_context().trace_id)
    return answer


def submit_in_child(module: ModuleType, **asked: Any) -> Any:
    """Submit one task in a forked child, which ends as children of multiprocessing do."""
    fork = multiprocessing.get_context("fork")
    answers, answer = fork.Pipe(duplex=False)
    child = fork.Process(target=lambda: answer.send(submit(module, **asked)))
    child.start()
    found = answers.recv()
    child.join()
    return found


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
