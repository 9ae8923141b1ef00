"""The trace and the counts for each way in which a task can end, in each of Celery's pools."""

import json
import re
import signal
import sys
from bisect import insort
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pytest

from otel_queue_bridge.otlp import Receiver, Span
from tests.brokers.shop import ROOT, paths
from tests.servers import LIMIT, Processes, otel_env

APP = "tests.brokers.celery_outcomes_app"


class Attempt(NamedTuple):
    """How one attempt ends."""

    status: str
    error: str = ""
    """`error.type` on the span and the metrics; if there is one, the span is an error."""
    ran: bool = True
    """If it did not, the attempt ends with its dispatch."""
    published: bool = False
    """Whether the next attempt is submitted inside this one; if not, the message comes again."""


Attempts = tuple[Attempt, ...]


@dataclass
class Outcome:
    attempts: Attempts
    elsewhere: dict[str, Attempts] = field(default_factory=dict)
    """The attempts in pools where they differ."""
    absent: dict[str, str] = field(default_factory=dict)
    """Pools in which this cannot happen, and why."""


POOLS = {
    "prefork": ("-c", "4"),
    "threads": ("-P", "threads", "-c", "4"),
    "solo": ("-P", "solo"),
    "gevent": ("-P", "gevent", "-c", "10"),
    "gevent, patched first": ("-P", "gevent", "-c", "10"),
    "eventlet": ("-P", "eventlet", "-c", "10"),
    "prefork on RabbitMQ": ("-c", "4"),
}

SLOW = "no reading of celery task.queue.depth for now: not within 1 s"
"""What a broker on a busy machine may lead to."""
PATCHED_LATE = ("gevent", "eventlet")
"""Pools for which Celery patches while the SDK is already running."""

SUCCESS = Attempt("success")
LOST = "billiard.exceptions.WorkerLostError"
TIME_LIMIT = "billiard.exceptions.TimeLimitExceeded"
GEVENT_LIMIT = "gevent.timeout.Timeout"

ONE_PROCESS = dict.fromkeys(
    ("threads", "solo", "gevent", "gevent, patched first", "eventlet"),
    "the worker has no child: it would end itself",
)
UNLIMITED = dict.fromkeys(
    ("threads", "solo", "eventlet"), "Celery keeps no time limits in this pool"
)
GEVENT = ("gevent", "gevent, patched first")

OUTCOMES = {
    "success": Outcome((SUCCESS,)),
    "failure": Outcome((Attempt("failure", "ValueError"),)),
    "failure that no pickle carries": Outcome((Attempt("failure", f"{APP}.Unpicklable"),)),
    "expected failure": Outcome((Attempt("failure"),)),
    "retry": Outcome((Attempt("retry", published=True), SUCCESS)),
    "retry of what is expected": Outcome((Attempt("retry", published=True), SUCCESS)),
    "autoretry": Outcome((Attempt("retry", "ConnectionError", published=True), SUCCESS)),
    "autoretry of what no pickle carries": Outcome(
        (Attempt("retry", f"{APP}.Unpicklable", published=True), SUCCESS)
    ),
    "last retry": Outcome(
        (
            Attempt("retry", "ConnectionError", published=True),
            Attempt("failure", "ConnectionError"),
        )
    ),
    "ignore": Outcome((Attempt("ignored"),)),
    "reject": Outcome((Attempt("rejected"),)),
    "reject and requeue": Outcome((Attempt("retry"), SUCCESS)),
    # Its message was acknowledged before it ran: Celery does not try it again.
    "reject and requeue too late": Outcome((Attempt("rejected"),)),
    "expired": Outcome((Attempt("cancelled", ran=False),)),
    "expired while held": Outcome((Attempt("cancelled", ran=False),)),
    "revoked": Outcome((Attempt("cancelled", ran=False),)),
    "revoked while held": Outcome((Attempt("cancelled", ran=False),)),
    "unknown": Outcome((Attempt("rejected", ran=False),)),
    "undecodable": Outcome((Attempt("rejected", ran=False),)),
    "not accepted": Outcome((Attempt("rejected", ran=False),)),
    "terminated": Outcome(
        (Attempt("cancelled"),),
        absent=dict.fromkeys(("threads", "solo"), "Celery cannot terminate a task in this pool"),
    ),
    "soft time limit": Outcome(
        (Attempt("failure", "billiard.exceptions.SoftTimeLimitExceeded"),),
        absent=UNLIMITED | dict.fromkeys(GEVENT, "Celery keeps only hard limits in this pool"),
    ),
    "hard time limit": Outcome(
        (Attempt("failure", TIME_LIMIT),),
        elsewhere=dict.fromkeys(GEVENT, (Attempt("failure", GEVENT_LIMIT),)),
        absent=UNLIMITED,
    ),
    "hard time limit, requeued": Outcome(
        (Attempt("retry", TIME_LIMIT), SUCCESS),
        elsewhere=dict.fromkeys(GEVENT, (Attempt("retry", GEVENT_LIMIT), SUCCESS)),
        absent=UNLIMITED,
    ),
    "os._exit": Outcome((Attempt("failure", LOST),), absent=ONE_PROCESS),
    "SIGKILL": Outcome((Attempt("failure", LOST),), absent=ONE_PROCESS),
    "SIGKILL, requeued": Outcome((Attempt("retry", LOST), SUCCESS), absent=ONE_PROCESS),
    "SIGKILL, retried": Outcome(
        (Attempt("retry", LOST, published=True), SUCCESS), absent=ONE_PROCESS
    ),
    "SystemExit": Outcome((Attempt("failure", "SystemExit"),)),
    "SystemExit, requeued": Outcome((Attempt("retry", "SystemExit"), SUCCESS), absent=ONE_PROCESS),
}

ENDING_A_CHILD = [name for name in OUTCOMES if name.startswith(("os._exit", "SIGKILL", "System"))]

CELLS = [
    (pool, name)
    for pool in POOLS
    for name, outcome in OUTCOMES.items()
    if pool not in outcome.absent
]


def expected_spans(attempts: Attempts) -> list[str]:
    """Return every span as the path that leads to it."""
    path = "submit"
    paths = [path]
    for attempt in attempts:
        if not attempt.ran:
            paths.append(f"{path} > dispatch {attempt.status}")
            continue
        ran = f"{path} > dispatch > execute {attempt.status}"
        if attempt.error:
            ran += f" ERROR {attempt.error}"
        paths += [f"{path} > dispatch", ran]
        if attempt.published:
            path = f"{ran} > submit"
            paths.append(path)
    return sorted(paths)


def expected_counts(attempts: Attempts) -> Counter[str]:
    counts = Counter({"task.submitted": 1, "task.dispatched": len(attempts)})
    for attempt in attempts:
        if attempt.status == "retry":
            counts["task.retried"] += 1
        else:
            counts[f"task.completed {attempt.status} {attempt.error}".strip()] += 1
        if attempt.ran:
            counts[f"task.duration {attempt.status} {attempt.error}".strip()] += 1
            counts["task.wait"] += 1
    return counts


def described(span: Span) -> str:
    words = (
        span.attributes["messaging.operation.name"],
        span.attributes.get("task.status"),
        span.status.replace("UNSET", ""),
        span.attributes.get("error.type"),
    )
    return " ".join(filter(None, words))


class Finished:
    """All that the processes of one pool have exported so far, by task."""

    def __init__(self, receiver: Receiver) -> None:
        spans = receiver.spans()
        path = paths(spans, described)
        self.spans: defaultdict[str, list[str]] = defaultdict(list)
        for span in spans:
            insort(self.spans[span.attributes["task.name"]], path[span.span_id])
        series = {
            (point.resource["service.instance.id"], point.metric, *point.attributes.values()): point
            for point in receiver.points()
        }
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for point in series.values():
            if "task.name" in point.attributes:
                words = (point.attributes.get(name) for name in ("task.status", "error.type"))
                kind = " ".join(filter(None, [point.metric, *words]))
                count = point.count if point.kind == "histogram" else int(point.value)
                self.counts[point.attributes["task.name"]][kind] += count
        self.log = ""

    def has(self, task: str, attempts: Attempts) -> bool:
        return len(self.spans[task]) >= len(expected_spans(attempts)) and (
            self.counts[task] >= expected_counts(attempts)
        )


def attempts(pool: str, name: str) -> Attempts:
    outcome = OUTCOMES[name]
    return outcome.elsewhere.get(pool, outcome.attempts)


def rounds(pool: str) -> list[list[str]]:
    """Return which outcomes are submitted together; those that end the worker come last."""
    names = [name for of, name in CELLS if of == pool]
    if pool == "solo":  # the worker of Celery 5.7 ends with it
        names.remove("SystemExit")
        return [names, ["SystemExit"]]
    return [names]


def run(pool: str, broker: str, folder: Path) -> Finished:
    """Let one worker run every outcome that this pool can have."""
    env = {
        "APP_BROKER": broker,
        "APP_NOTES": str(folder),
        "PYTHONPATH": str(ROOT),
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,redis",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }
    patched = {}
    if "patched first" in pool:
        patched["OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH"] = "patch_all"
    elif pool in PATCHED_LATE:
        # Celery patches while the SDK's threads are already running. A thread that wakes up
        # meanwhile dies of a `RecursionError` (gevent 26.9).
        env |= {"OTEL_METRIC_EXPORT_INTERVAL": "3000", "OTEL_BSP_SCHEDULE_DELAY": "3000"}
    processes = Processes(folder)
    with Receiver() as receiver:

        def all_arrived(names: list[str], _: object) -> bool:
            finished = Finished(receiver)
            return all(finished.has(name, attempts(pool, name)) for name in names)

        try:
            worker = processes.start(
                "worker",
                [
                    "opentelemetry-instrument",
                    "celery",
                    "-A",
                    APP,
                    "worker",
                    "-l",
                    "info",
                    *POOLS[pool],
                ],
                env=otel_env(receiver, "worker") | env | patched,
                ready=" ready.",
                cwd=ROOT,
            )
            for names in rounds(pool):
                watched = [name for name in names if "prefork" in pool and name in ENDING_A_CHILD]
                submit = [sys.executable, "-m", APP, json.dumps(names), json.dumps(watched)]
                caller = processes.start(
                    "caller",
                    ["opentelemetry-instrument", *submit],
                    env=otel_env(receiver, "caller") | env,
                    cwd=ROOT,
                )
                assert caller.wait() == 0, caller.log()
                with suppress(TimeoutError):  # the cells of missing tasks will fail
                    receiver.wait_for(partial(all_arrived, names), LIMIT)
            worker.stop(signal.SIGTERM)
            assert not receiver.rejected
            finished = Finished(receiver)
            finished.log = worker.log()
            return finished
        finally:
            processes.stop(grace=0)


@pytest.fixture(scope="module")
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Finished]:
    """Run each pool once, for all of its cells."""

    @cache
    def finished(pool: str) -> Finished:
        if "RabbitMQ" in pool:
            broker = request.getfixturevalue("rabbitmq").vhost()
        else:
            server = request.getfixturevalue("valkey")
            broker = server.url
            with server.client() as client:
                client.flushall()
        return run(pool, broker, tmp_path_factory.mktemp("outcomes"))

    return finished


@pytest.mark.parametrize(("pool", "name"), CELLS)
def test_outcome(finished: Callable[[str], Finished], pool: str, name: str) -> None:
    expected = attempts(pool, name)
    assert finished(pool).spans[name] == expected_spans(expected)
    assert finished(pool).counts[name] == expected_counts(expected)


@pytest.mark.parametrize("pool", POOLS)
def test_a_worker_has_nothing_to_complain_about(
    finished: Callable[[str], Finished], pool: str
) -> None:
    log = finished(pool).log
    assert "Failed to detach context" not in log
    complaints = re.findall(r"^(?:otel_queue_bridge|opentelemetry)\S* [A-Z]+ .*", log, re.MULTILINE)
    if pool in PATCHED_LATE:  # an export under way at that time fails
        warned = [one for one in complaints if "the SDK was started before" in one]
        assert len(warned) == 1
        complaints = [
            one
            for one in complaints
            if one not in warned and "switch to a different thread" not in one
        ]
    assert [one for one in complaints if SLOW not in one] == []
