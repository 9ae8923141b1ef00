"""The trace and the counts for each way that a message of Dramatiq can go."""

import json
import re
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest
from dramatiq.middleware import Retries

from otel_queue_bridge.otlp import Receiver
from tests.brokers.finished import Finished
from tests.brokers.shop import ROOT, SECRET
from tests.servers import LIMIT, Processes, otel_env

APP = "tests.brokers.dramatiq_app"
TIME_LIMIT = "dramatiq.middleware.time_limit.TimeLimitExceeded"

ENDS = {
    "success": "success > work",
    "async success": "success > work",
    "delayed": "success",
    "retry after an error": "retry ERROR ValueError > submit > dispatch > execute success",
    "retry after an error, async": "retry ERROR ValueError > submit > dispatch > execute success",
    "retry asked for": "retry > submit > dispatch > execute success",
    "rate limit exceeded": "retry > submit > dispatch > execute success",
    "shut down": "retry > submit > dispatch > execute success",
    "aborted and retried": "retry > submit > dispatch > execute success",
    "retries exhausted": "failure ERROR ValueError",
    "retry asked for in vain": "failure ERROR dramatiq.errors.Retry",
    "failure by an option of the message": (
        "retry ERROR ValueError > submit > dispatch > execute failure ERROR ValueError"
    ),
    "expected failure": "failure",
    "exit": "failure ERROR SystemExit",
    "skipped": "cancelled",
    "failed by a middleware": "failure ERROR _OTHER",
    "too old": "cancelled",
    "aborted": "cancelled",
    "time limit": f"failure ERROR {TIME_LIMIT}",
    "time limit, async": f"failure ERROR {TIME_LIMIT}",
    "callback of the actor": "success > submit then > dispatch > execute success",
    "callback of the message": "success > submit then > dispatch > execute success",
    "callback of a failure": (
        "failure ERROR ValueError > submit then > dispatch > execute success"
    ),
    "callback of exhausted retries": (
        "failure ERROR ValueError > submit then > dispatch > execute success"
    ),
    "pipeline": (
        "success > submit then > dispatch > execute success"
        " > submit last > dispatch > execute success"
    ),
}
"""The end of the first execute, and the path below it."""
LEAVES = {name: [f"submit > dispatch > execute {end}"] for name, end in ENDS.items()} | {
    "unknown": ["submit > dispatch rejected"],
    "unencodable": ["submit ERROR TypeError"],
}
"""The paths to the last spans of each case; every step of a path is a span."""
if "on_retry_exhausted" not in Retries().actor_options:  # before Dramatiq 1.18
    del LEAVES["callback of exhausted retries"]


def expected_spans(leaves: list[str]) -> list[str]:
    steps = [leaf.split(" > ") for leaf in leaves]
    return sorted({" > ".join(way[:end]) for way in steps for end in range(1, len(way) + 1)})


def counted(spans: list[str]) -> Counter[str]:
    """Return the counts that belong to these spans."""
    counts: Counter[str] = Counter()
    for path in spans:
        operation, *words = path.rpartition(" > ")[2].split(" ", 1)
        said = words[0] if words else ""
        if operation == "submit" and "ERROR" not in said:
            # A submit inside an attempt that ended with a retry is that retry.
            counts["task.submitted"] += (
                not path.rpartition(" > ")[0].rpartition(" > ")[2].startswith("execute retry")
            )
        elif operation == "dispatch":
            counts["task.dispatched"] += 1
            counts[f"task.completed {said}"] += bool(said)
        elif operation == "execute":
            said = said.replace("ERROR ", "")
            counts[f"task.duration {said}"] += 1
            counts["task.wait"] += 1
            ended = "task.retried" if said.startswith("retry") else f"task.completed {said}"
            counts[ended] += 1
    return +counts


class OfDramatiq(Finished):
    def __init__(self, receiver: Receiver) -> None:
        super().__init__(receiver)
        self.raw = receiver.raw()
        self.log = self.notes = ""

    def has(self, case: str) -> bool:
        spans = expected_spans(leaves(case))
        return len(self.spans[case]) >= len(spans) and self.counts[case] >= counted(spans)


def leaves(case: str) -> list[str]:
    return LEAVES[case]


def run(broker: str, redis: str, folder: Path) -> OfDramatiq:
    """Let one worker run every case."""
    notes = folder / "notes"
    env = {
        "APP_BROKER": broker,
        "APP_REDIS": redis,
        "APP_NOTES": str(notes),
        "PYTHONPATH": str(ROOT),
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,redis,logging",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
    }
    names = json.dumps([*LEAVES, "group"])
    processes = Processes(folder)
    with Receiver() as receiver:

        def all_arrived(_: object) -> bool:
            finished = OfDramatiq(receiver)
            return all(map(finished.has, LEAVES)) and len(finished.spans["group"]) >= 9

        try:
            worker = processes.start(
                "worker",
                ["opentelemetry-instrument", "dramatiq", APP, "--processes", "1", "--threads", "4"],
                env=otel_env(receiver, "worker") | env,
                ready="Worker process is ready for action.",
                cwd=ROOT,
            )
            submit = ["opentelemetry-instrument", sys.executable, "-m", APP, names]
            caller = processes.start(
                "caller", submit, env=otel_env(receiver, "caller") | env, cwd=ROOT
            )
            assert caller.wait() == 0, caller.log()
            with suppress(TimeoutError):  # the cases of what is missing will fail
                receiver.wait_for(all_arrived, LIMIT)
            assert worker.stop(signal.SIGTERM) == 0
            assert not receiver.rejected
            finished = OfDramatiq(receiver)
            finished.log = worker.log()
            finished.notes = notes.read_text() if notes.exists() else ""
            return finished
        finally:
            processes.stop(grace=0)


@pytest.fixture(scope="module")
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], OfDramatiq]:
    """Run each broker once, for all of its cases."""

    @cache
    def finished(broker: str) -> OfDramatiq:
        valkey = request.getfixturevalue("valkey")
        with valkey.client() as client:
            client.flushall()
        url = valkey.url
        if broker == "rabbitmq":
            url = request.getfixturevalue("rabbitmq").vhost()
        return run(url, valkey.url, tmp_path_factory.mktemp("outcomes"))

    return finished


on_each_broker = pytest.mark.parametrize("broker", ["valkey", "rabbitmq"])


@on_each_broker
@pytest.mark.parametrize("case", LEAVES)
def test_outcome(finished: Callable[[str], OfDramatiq], broker: str, case: str) -> None:
    spans = expected_spans(LEAVES[case])
    assert finished(broker).spans[case] == spans
    assert finished(broker).counts[case] == counted(spans)


@on_each_broker
def test_a_group_and_its_completion(finished: Callable[[str], OfDramatiq], broker: str) -> None:
    """The callback hangs under the member that happened to be the last."""
    spans = expected_spans(
        ["submit > dispatch > execute success", "submit other > dispatch > execute success"]
    )
    last = finished(broker).spans["group"]
    callback = [path for path in last if "then" in path]
    assert [path for path in last if path not in callback] == spans
    way = callback[0].removesuffix(" > submit then")
    assert way in spans
    assert way.endswith("execute success")
    assert callback == [
        f"{way} > submit then",
        f"{way} > submit then > dispatch",
        f"{way} > submit then > dispatch > execute success",
    ]
    assert finished(broker).counts["group"] == counted(last)
    assert counted(last)["task.submitted"] == counted(last)["task.completed success"] == 3


@on_each_broker
def test_a_worker_has_nothing_to_complain_about(
    finished: Callable[[str], OfDramatiq], broker: str
) -> None:
    log = finished(broker).log
    assert "Failed to detach context" not in log
    assert not re.findall(r".*\[(?:otel_queue_bridge|opentelemetry)\S*\] \[[A-Z]{5,}\].*", log)
    assert "Unexpected failure in" not in log
    assert finished(broker).notes == '["unencodable", "TypeError"]\n'


@on_each_broker
def test_arguments_and_results_are_in_no_telemetry(
    finished: Callable[[str], OfDramatiq], broker: str
) -> None:
    assert b"execute pipeline" in finished(broker).raw
    assert SECRET.encode() not in finished(broker).raw
