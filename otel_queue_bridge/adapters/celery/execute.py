"""Execute: the run itself, in any kind of pool.

`build_tracer` makes the function that runs one task. Prefork children look `build_tracer` up
when they need it; `Consumer` has imported it by name (Celery 5.7).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from otel_queue_bridge.adapter import Arguments
from otel_queue_bridge.adapters.celery.outcome import outcome
from otel_queue_bridge.adapters.celery.reading import task_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from types import ModuleType

    from otel_queue_bridge.adapter import Call, Recorder


def execute(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    assert call.maker is not None  # noqa: S101 - the factory's call, or the task that holds it
    task = call.maker.instance or call.maker.argument(1, "task")
    request = call.argument(3, "request") or {}
    facts = task_of(task.app, task.name, call.argument(0, "uuid"), request)
    args, kwargs = call.argument(1, "args"), call.argument(2, "kwargs")
    facts.arguments = lambda: Arguments(task.run, args, kwargs)
    eager = bool(request.get("is_eager"))
    # The main process counts, unless it has no SDK, or only its children are instrumented.
    alone = not eager and in_pool_child() and not recorder.parent_counts()
    if alone:
        recorder.dispatched(facts)
    with recorder.execute(facts, measured=eager or alone) as operation:
        yield
        if isinstance(call.error, SystemExit) and in_pool_child():
            operation.disown()  # the child is about to end: the parent knows why, and reports it
        else:
            operation.settle(outcome(task, call))


def made_tracers(state: ModuleType) -> Iterable[tuple[object, str]]:
    """Find what was made before us: a child may be instrumented once it is about to work."""
    for app in state._get_active_apps():  # noqa: SLF001 - there is no public list of apps
        for task in vars(app).get("_tasks", {}).values():
            if vars(task).get("__trace__") is not None:
                yield task, "__trace__"


def adopt_tracers(_: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Advise what others have put in the place of `build_tracer`, as pools of coroutines do."""
    yield
    _adopt(recorder)


def _adopt(recorder: Recorder) -> None:
    state = sys.modules["celery._state"]
    for task, attribute in made_tracers(state):
        recorder.patch(task, attribute, execute)


def work(_: Call, recorder: Recorder) -> Generator[None, None, None]:
    recorder.relay_spans()
    _adopt(recorder)
    yield  # for all tasks of a pool's child, which ends with os._exit: it runs no exit handlers
    recorder.flush()


def in_pool_child() -> bool:
    process = sys.modules.get("billiard.process")
    return process is not None and bool(process.current_process()._identity)  # noqa: SLF001
