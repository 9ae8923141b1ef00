"""The trace and the counts for each way in which a job can end, in each kind of RQ worker."""

import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import NamedTuple

import pytest
import rq.command
import rq.job
import rq.worker

from otel_queue_bridge.otlp import Receiver
from tests.brokers.rq_fleet import FLUSH, Finished, Fleet, complaints, unclean
from tests.servers import LIMIT, Processes, Valkey

APP = "tests.brokers.rq_app"


class Attempt(NamedTuple):
    """How one attempt ends, and the user's spans below it."""

    status: str
    error: str = ""
    """`error.type` on the span and the metrics; if there is one, the span is an error."""
    again: str = ""
    """How the next attempt, submitted inside this one, comes about: a retry, or a new task."""
    below: tuple[str, ...] = ()


Attempts = tuple[Attempt, ...]
SUCCESS = Attempt("success")
TIMEOUT = "rq.timeouts.JobTimeoutException"

OUTCOMES: dict[str, Attempts] = {
    "success": (SUCCESS,),
    "failure": (Attempt("failure", "ValueError"),),
    "quoting": (Attempt("failure", "ValueError"),),
    "unprintable": (Attempt("failure", f"{APP}.Unprintable"),),
    "retry": (Attempt("retry", "ConnectionError", "retry"), SUCCESS),
    "retry_later": (Attempt("retry", "ConnectionError", "retry"), SUCCESS),
    "last_retry": (
        Attempt("retry", "ConnectionError", "retry"),
        Attempt("failure", "ConnectionError"),
    ),
    "returned_retry": (Attempt("retry", again="retry"), SUCCESS),
    "returned_retry_later": (Attempt("retry", again="retry"), SUCCESS),
    "returned_retry_too_often": (
        Attempt("retry", again="retry"),
        Attempt("failure", "max_retries_exceeded"),
    ),
    "repeat": (Attempt("success", again="repeat"), SUCCESS),
    "repeat_later": (Attempt("success", again="repeat"), SUCCESS),
    "too_long": (Attempt("failure", TIMEOUT),),
    "killed_inside": (Attempt("failure", "SIGKILL", below=("inner",)),),
    "killed": (Attempt("failure", "SIGKILL"),),
    "killed_and_retried": (Attempt("retry", "SIGKILL", "retry"), SUCCESS),
    "killed_and_retried_later": (Attempt("retry", "SIGKILL", "retry"), SUCCESS),
    "crashed": (Attempt("failure", "SIGABRT"),),
    "exits": (Attempt("failure", "exit status 3"),),
    "system_exit": (Attempt("failure", "SystemExit"),),
    "stopped": (Attempt("failure", "stopped"),),
    "stopped_execution": (Attempt("failure", "stopped"),),
    "coroutine": (Attempt("success", below=("inner",)),),
    "forgotten": (SUCCESS,),
    "callback_fails": (Attempt("failure", "KeyError"),),
    "submits": (SUCCESS,),
    "undone": (Attempt("retry", "exit status 1", "retry"), SUCCESS),
    "missing": (Attempt("failure", "ValueError"),),
}

ABSENT = {
    name
    for name in OUTCOMES
    if (name.startswith("returned") and not hasattr(rq.job.Job, "_handle_retry_result"))
    or (name.startswith("repeat") and not hasattr(rq, "Repeat"))
    or (name == "stopped_execution" and not hasattr(rq.command, "send_stop_execution_command"))
}
"""Outcomes that the installed version of RQ does not have yet."""
NO_HORSE = {
    "killed",
    "killed_inside",
    "killed_and_retried",
    "killed_and_retried_later",
    "crashed",
    "exits",
    "stopped",
    "stopped_execution",
}
"""Outcomes that would end a worker that runs its jobs itself."""
FEW = ("success", "failure", "retry", "killed", "coroutine")
SPAWNED = (
    *("failure", "quoting", "too_long", "retry", "repeat", "killed_and_retried", "forgotten"),
    *("submits", "stopped"),
)
"""Only some, because each needs a new interpreter that imports the SDK."""


class Kind(NamedTuple):
    """A way to run a worker."""

    worker: str
    env: dict[str, str]
    names: tuple[str, ...]


ALL = tuple(name for name in OUTCOMES if name not in ABSENT | {"undone"})
KINDS = {
    "relay": Kind("rq.worker.Worker", {}, ALL),
    "flush": Kind("rq.worker.RoundRobinWorker", FLUSH, ALL),
    "simple": Kind("rq.worker.SimpleWorker", {}, tuple(n for n in ALL if n not in NO_HORSE)),
    "spawn": Kind("rq.worker.SpawnWorker", {}, SPAWNED),
    "overriding Heroku's": Kind(
        f"{APP}.Overriding", {}, (*FEW, "stopped", "killed_and_retried", "undone")
    ),
}
if not hasattr(rq.worker, "SpawnWorker"):
    del KINDS["spawn"]
CELLS = [(kind, name) for kind, (_, _, names) in KINDS.items() for name in names]


def expected_spans(attempts: Attempts) -> list[str]:
    """Return every span as the path that leads to it."""
    path = "submit"
    paths = [path]
    number = ""
    for attempt in attempts:
        ran = f"{path} > dispatch{number} > execute{number} {attempt.status}"
        if attempt.error:
            ran += f" ERROR {attempt.error}"
        at = f"{path} > dispatch{number}"
        paths += [at, ran, *(f"{ran} > {below}" for below in attempt.below)]
        number = " #2" if attempt.again == "retry" else ""
        if attempt.again:
            path = f"{ran} > submit{number}"
            paths.append(path)
    return sorted(paths)


def expected_counts(kind: str, name: str) -> Counter[str]:
    attempts = OUTCOMES[name]
    repeats = sum(attempt.again == "repeat" for attempt in attempts)
    counts = Counter({"task.submitted": 1 + repeats, "task.dispatched": len(attempts)})
    for status, error, *_ in attempts:
        # The worker reads the outcome of a spawned horse from Redis, which holds a traceback at
        # most. A job that is retried has none; if there are two, nothing says which one it is.
        noted = kind == "spawn" and error not in ("SIGKILL", "stopped")
        error_type = "_OTHER" if noted and name == "quoting" else error
        if status == "retry":
            counts["task.retried"] += 1
        else:
            counts[f"task.completed {status} {error_type}".strip()] += 1
        timed = "" if noted and status == "retry" else error_type
        counts[f"task.duration {status} {timed}".strip()] += 1
        counts["task.wait"] += 1
    return counts


@pytest.fixture(scope="module")
def run(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """Let one worker of a kind run every outcome that it can have."""

    @cache
    def run(kind: str) -> Finished:
        worker_class, env, names = KINDS[kind]
        folder = tmp_path_factory.mktemp("rq")
        processes = Processes(folder)
        with Receiver() as receiver:
            fleet = Fleet(valkey.url, receiver, processes, folder, APP)
            try:
                worker = fleet.worker("default", "--with-scheduler", kind=worker_class, **env)
                fleet.caller().ask([[name] for name in names])

                def arrived(_: object) -> bool:
                    finished = fleet.finished()
                    return all(
                        len(finished.spans[name]) >= len(expected_spans(OUTCOMES[name]))
                        and finished.counts[name] >= expected_counts(kind, name)
                        for name in names
                    )

                with suppress(TimeoutError):  # the cells of missing jobs will fail
                    receiver.wait_for(arrived, LIMIT)
                worker.stop(signal.SIGTERM)
                finished = fleet.finished()
                # A spawned work-horse itself counts what it submits.
                processes_that_count = 100 if kind == "spawn" else 1
                finished.complaints = complaints(worker)
                finished.complaints += unclean(receiver, workers=processes_that_count)
                return finished
            finally:
                fleet.stop()

    return run


@pytest.mark.parametrize(("kind", "name"), CELLS)
def test_outcome(run: Callable[[str], Finished], kind: str, name: str) -> None:
    attempts = OUTCOMES[name]
    assert run(kind).spans[name] == expected_spans(attempts)
    assert run(kind).counts[name] == expected_counts(kind, name)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "submits" in KINDS[kind].names])
def test_what_a_job_submits_is_its_child_and_counted(
    run: Callable[[str], Finished], kind: str
) -> None:
    above = "submit > dispatch > execute success > "
    assert run(kind).spans["submitted"] == [above + path for path in expected_spans((SUCCESS,))]
    assert run(kind).counts["submitted"] == expected_counts(kind, "success")


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_has_nothing_to_complain_about(run: Callable[[str], Finished], kind: str) -> None:
    assert run(kind).complaints == []
