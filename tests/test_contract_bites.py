"""The contract catches a wrong adapter: each slip of a stranger's makes the rows named here fail.

The adapter is that of examples/own_queue. Each mutant is a copy with some of its text replaced, and
has a child pytest that runs only the rows expected to catch it.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.own_queue import ADAPTER, EXAMPLE, install
from tests.servers import LIMIT

AT_ONCE = 4
"""Most of the time they wait."""
PATIENCE = "20"
"""Seconds until what a mutant never exports is missed."""


class Mutant(NamedTuple):
    rows: tuple[str, ...]
    """Names of the tests that fail, without `test_`."""
    changes: dict[str, str]
    """Text of the adapter, and what it is replaced by."""


ONE_TRACE = "one_trace_through_caller_worker_and_task"
COUNTED = "a_finished_task_is_counted_once"
FAILED = "a_failed_task_is_counted_once"
RETRIED = "a_retry_is_counted_as_one"
CHAINED = "a_retry_hangs_under_the_attempt_that_asked_for_it"
CANCELLED = "a_cancelled_task_has_a_dispatch_and_is_counted_once"
DEPTH = "the_depth_of_a_queue_is_what_waits_at_the_broker"
DELAYED = "what_waits_for_its_time_is_delayed_and_not_depth"
OLDEST = "the_oldest_task_that_waits_tells_its_age"
RUNS = "a_worker_that_runs_a_task_is_busy"
WORKERS = "workers_are_counted_while_they_run"
STOPPED = "workers_that_have_stopped_are_none"
UNDO = "undo_restores_the_library_exactly"
CYCLES = "switched_on_and_off_time_and_again_it_records_once"

BUSY = ", busy=int(it.otel_execute is not None)"
WATCH_WORKERS = f"    recorder.watch_workers(lambda it: [Reading(1{BUSY})], queue)\n"
WATCH_DEPTH = "    recorder.watch_depth(lambda it: [waiting(it, recorder)], queue)\n"
CANCEL = re.search(r"    operation\.settle\(Outcome.*\n", ADAPTER.read_text())[0]
HAND_OVER = "    queue.otel_dispatch.inject(task_of(queue, job).carrier)\n"
HANDED_OVER = "    queue.otel_dispatch.end()\n"
RUNNING = "    with recorder.execute(task_of(queue, job), measured=True) as queue.otel_execute:\n"
RAN = '        queue.otel_execute.settle(Outcome("success"))\n        yield\n'
SETTLED = '    queue.otel_execute.settle(Outcome("retry" if again else "failure", error))\n'
PUSH = '        Hook("own_queue:Queue.push", submit, overrides=True),\n'
ARGUMENTS = 'Arguments(queue.tasks.get(job["task"]), job["args"], job["kwargs"])'
CARRIER = 'carrier=job.setdefault("otel", {}),'

# Text that counts an attempt by hand, with times in a wrong unit.
BY_HAND = """\
    import time
    began = time.time()
    with recorder.execute(task_of(queue, job)) as queue.otel_execute:
        queue.otel_execute.settle(Outcome("success"))
        yield
    took = time.time() - began
    task, outcome = task_of(queue, job), Outcome("success")
    recorder.attempted(task, outcome, started=began{started}, duration=took{duration})
"""
LAYER = """
def layer(module):
    from opentelemetry import trace
    push = module.Queue.push
    def pushed(self, job):
        with trace.get_tracer("by hand").start_as_current_span("layer"):
            push(self, job)
    module.Queue.push = pushed
    return []


adapter ="""
HANDLE = """\
    handle = queue.handle
    def handle_by_hand(job):
        queue.otel_dispatch = operation = recorder.dispatch(task_of(queue, job))
        handle(job)
        operation.end()
    queue.handle = handle_by_hand
    yield
    recorder.close(queue)
"""

MUTANTS = {
    # the trace
    "carrier not injected": Mutant((ONE_TRACE,), {CARRIER: 'carrier=dict(job.get("otel", {})),'}),
    "carrier injected into the arguments": Mutant(
        ("no_argument_leaves_the_process",),
        {CARRIER: 'carrier=job["kwargs"].setdefault("otel", {}),'},
    ),
    "dispatch not handed over": Mutant((ONE_TRACE,), {HAND_OVER: ""}),
    "dispatch never ended": Mutant(
        (ONE_TRACE,), {HANDED_OVER: "", f"{CANCEL}    operation.end()\n": ""}
    ),
    "dispatch contains the execution": Mutant(
        ("dispatch_ends_at_the_hand_over",), {HANDED_OVER: "", CANCEL: ""}
    ),
    "execute is not current": Mutant(
        (ONE_TRACE,),
        {
            f"{RUNNING}{RAN}": "    queue.otel_execute = recorder.execute(task_of(queue, job))\n"
            "    yield\n    queue.otel_execute.end()\n"
        },
    ),
    "each override recorded twice": Mutant(
        (ONE_TRACE,),
        {
            PUSH: '        Hook("own_queue:Queue.push", submit),\n'
            '        Hook("contract_app:LoggingQueue.push", submit),\n'
        },
    ),
    "attempts not numbered": Mutant((CHAINED, RETRIED), {'        attempt=job["attempt"],\n': ""}),
    "task not named by its id": Mutant(
        ("kinds_attributes_and_scope",), {'        id=job["id"],\n': ""}
    ),
    # outcomes
    "errors swallowed": Mutant(("a_failing_task_is_an_error",), {SETTLED: ""}),
    "failed publish not told": Mutant(
        ("a_failing_publish_is_an_error_and_leaves_nothing_current",),
        {"        operation.settle_by(call)\n": ""},
    ),
    "no outcome": Mutant(
        (COUNTED,), {'        queue.otel_execute.settle(Outcome("success"))\n': ""}
    ),
    # counts
    "every failed task counted twice": Mutant(
        (FAILED,),
        {
            "def fail(call, _):": "def fail(call, recorder):",
            SETTLED: f"{SETTLED}    recorder.attempted(task_of(queue, job), "
            'Outcome("failure", error), started=0, duration=None)\n',
        },
    ),
    "dispatch not counted": Mutant(
        (COUNTED,),
        {
            "= recorder.dispatch(task_of(queue, job))": "= recorder.dispatch(\n"
            "        task_of(queue, job), measured=False\n    )"
        },
    ),
    "execute not counted": Mutant((COUNTED,), {", measured=True)": ")"}),
    "retry counted as completed": Mutant(
        (RETRIED,), {'"retry" if again else "failure"': '"failure"'}
    ),
    "cancelled dispatches missing": Mutant((CANCELLED,), {CANCEL: "    operation.disown()\n"}),
    "cancelled tasks not completed": Mutant((CANCELLED,), {CANCEL: ""}),
    # units
    "wait in nanoseconds": Mutant(
        ("time_in_the_queue_is_in_seconds",),
        {RUNNING + RAN: BY_HAND.format(started=" * 1e9", duration="")},
    ),
    "duration in milliseconds": Mutant(
        ("durations_are_in_seconds",),
        {RUNNING + RAN: BY_HAND.format(started="", duration=" * 1000")},
    ),
    "eta in milliseconds": Mutant(
        ("a_long_planned_delay_links",), {'eta=job.get("due")': 'eta=job.get("due", 0) * 1000'}
    ),
    # arguments
    "arguments recorded unlisted": Mutant(
        ("no_argument_leaves_the_process",),
        {"        arguments=": '        attributes={"call": str(call)},\n        arguments='},
    ),
    "keyword arguments not captured": Mutant(
        ("arguments_that_a_task_takes_by_any_name_are_recorded_if_listed",),
        {ARGUMENTS: 'Arguments(queue.tasks.get(job["task"]), job["args"])'},
    ),
    "positional arguments not captured": Mutant(
        ("listed_arguments_and_no_others_are_recorded",),
        {ARGUMENTS: 'Arguments(None, job["args"], job["kwargs"])'},
    ),
    # gauges, and the end
    "both gauges removed": Mutant((WORKERS, DEPTH), {WATCH_WORKERS: "", WATCH_DEPTH: ""}),
    "a wrong number of workers": Mutant((WORKERS,), {"Reading(1, ": "Reading(4, "}),
    "a worker that is never busy": Mutant((RUNS,), {BUSY: ""}),
    "a worker that stays busy": Mutant((RUNS,), {f"{RAN}    queue.otel_execute = None\n": RAN}),
    "a depth that counts the wrong list": Mutant(
        (DEPTH,), {'("LLEN", queue.name)': '("LLEN", "other")'}
    ),
    "a depth with what is delayed": Mutant(
        (DELAYED,), {"Reading(ready, ": "Reading(ready + later, "}
    ),
    "delayed not told": Mutant((DELAYED,), {", delayed=later": ""}),
    "age in milliseconds": Mutant((OLDEST,), {"oldest=oldest": "oldest=oldest * 1000"}),
    "age of the newest": Mutant(
        (OLDEST,), {'("LINDEX", queue.name, 0)': '("LINDEX", queue.name, -1)'}
    ),
    "gauges not closed": Mutant((STOPPED,), {"    recorder.close(queue)\n": ""}),
    # undo
    "undo leaves a hook": Mutant(
        (UNDO, CYCLES),
        {"\nadapter =": LAYER, PUSH: f'{PUSH}        Hook("own_queue", submit, find=layer),\n'},
    ),
    "undo leaves a running worker as it is": Mutant(
        ("undo_in_a_running_worker",),
        {
            '        Hook("own_queue:Queue.handle", dispatch),\n': "",
            "    yield\n    recorder.close(queue)\n": HANDLE,
        },
    ),
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, package: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, "Future[tuple[set[str], str]]"]]:
    """Start all that this session has chosen, the longest first."""
    mine = {item.name for item in request.session.items if item.fspath == request.path}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        runs = {}
        if any("unchanged" in name for name in mine):
            runs[""] = pool.submit(contract, package, (), tmp_path_factory.mktemp("unchanged"))
        for name, mutant in MUTANTS.items():
            if any(f"[{name}]" in item for item in mine):
                folder = tmp_path_factory.mktemp("mutant")
                copy = Path(shutil.copytree(package, folder / "package"))
                (copy / ADAPTER.name).write_text(mutated(mutant))
                runs[name] = pool.submit(contract, copy, mutant.rows, folder, PATIENCE)
        yield runs


def mutated(mutant: Mutant) -> str:
    source = ADAPTER.read_text()
    for old, new in mutant.changes.items():
        assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in the adapter"
        source = source.replace(old, new)
    return source


def contract(
    package: Path, rows: tuple[str, ...], folder: Path, patience: str = str(LIMIT)
) -> tuple[set[str], str]:
    """Run these rows, or all; return which have failed, and pytest's output."""
    chosen = [f"test_contract.py::TestOwnQueue::test_{row}" for row in rows]
    options = [
        "-q",
        "-rfEs",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        f"--basetemp={folder / 'own'}",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *(chosen or ["test_contract.py"])],
        cwd=EXAMPLE,
        env=os.environ
        | {"PYTHONPATH": str(package), "CONTRACT_LIMIT": patience}
        | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # half of its start
        capture_output=True,
        text=True,
        check=False,
    )
    output = run.stdout + run.stderr
    failed = re.findall(r"^FAILED \S+::test_(\w+)", output, re.MULTILINE)
    assert run.returncode == bool(failed), output  # and nothing else went wrong
    return set(failed), output


def test_the_adapter_unchanged_passes(runs) -> None:
    failed, output = runs[""].result()
    assert not failed, output
    assert re.findall(r"(\d+) skipped", output) == ["2"]
    assert "it keeps no job that failed" in output
    assert "it has no schedules" in output


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_adapter_is_caught(runs, name: str) -> None:
    failed, output = runs[name].result()
    assert failed == set(MUTANTS[name].rows), output
