"""The trace and the counts for each way that a task of Huey can go."""

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from otel_queue_bridge.otlp import Receiver
from tests.brokers.huey_fleet import Fleet, stop
from tests.brokers.rq_fleet import COMPLAINTS
from tests.brokers.shop import SECRET
from tests.brokers.test_dramatiq_outcomes import counted, expected_spans
from tests.servers import LIMIT, Processes, Valkey

TIMEOUT = "huey.exceptions.TaskTimeout"
AGAIN = "> submit > dispatch > execute success"

ENDS = {
    "success": "success > work",
    "delayed": "success",
    "failure": "failure ERROR ValueError",
    "retry": f"retry ERROR ValueError {AGAIN}",
    "retry later": f"retry ERROR ValueError {AGAIN}",
    "retry in vain": (
        "retry ERROR ValueError > submit > dispatch > execute failure ERROR ValueError"
    ),
    "retry asked for": f"retry {AGAIN}",
    "retry asked for later": f"retry {AGAIN}",
    "canceled": "cancelled",
    "canceled and retried": f"retry {AGAIN}",
    "canceled before": "cancelled",
    "exit": "failure ERROR SystemExit",
    "locked": "cancelled",
    "locked and retried": f"retry {AGAIN}",
    "rate limited": f"retry {AGAIN}",
    "rate limited in vain": "cancelled",
    "timeout": f"failure ERROR {TIMEOUT}",
    "timeout and retried": f"retry ERROR {TIMEOUT} {AGAIN}",
    "on error": "failure ERROR ValueError > submit then > dispatch > execute success",
    "pipeline": (
        "success > submit then > dispatch > execute success"
        " > submit last > dispatch > execute success"
    ),
}
"""The end of the first execute, and the path below it."""
LEAVES = {name: [f"submit > dispatch > execute {end}"] for name, end in ENDS.items()} | {
    "expired": ["submit > dispatch cancelled"],
    "revoked": ["submit > dispatch cancelled"],
    "unknown": ["submit > dispatch rejected"],
    "unencodable": ["submit ERROR TypeError"],
}
"""The paths to the last spans of each case; every step of a path is a span."""
CALLBACK = "> submit then > dispatch > execute success"
MEMBER = "submit > dispatch > execute success"
CHORDS = {
    "group": {MEMBER: 2},
    "chord": {MEMBER: 2},
    "chord with a failure": {
        MEMBER: 1,
        "submit fails > dispatch > execute failure ERROR ValueError": 1,
    },
    "chord with one revoked": {MEMBER: 1, "submit > dispatch cancelled": 1},
}
"""How their members end; the callback is below whichever is the last."""
FLEETS = {
    "Redis, threads": ("redis", "thread", "signed gzip"),
    "Redis, processes": ("redis", "process", ""),
    "Redis, greenlets": ("redis", "greenlet", "gzip"),
    "SQLite, threads": ("sqlite", "thread", ""),
    "files, processes": ("file", "process", "signed"),
}


class Running:
    """One fleet that runs all cases."""

    def __init__(self, fleet: Fleet, kind: str) -> None:
        self.fleet = fleet
        self.worker = fleet.consumer(kind)
        self._caller = fleet.submit(*LEAVES, *CHORDS)

    def end(self) -> None:
        assert self._caller.wait() == 0, self._caller.log()
        with suppress(TimeoutError):  # the cases of what is missing will fail
            self.fleet.receiver.wait_for(self._all_arrived, LIMIT)
        stop(self.worker, signal.SIGINT)
        assert not self.fleet.receiver.rejected
        self.finished = self.fleet.finished()
        self.raw = self.fleet.receiver.raw()
        self.log = self.worker.log()

    def _all_arrived(self, _: object) -> bool:
        finished = self.fleet.finished()
        return (
            all(finished.counts[case] >= counted(expected_spans(LEAVES[case])) for case in LEAVES)
            and all(
                len(finished.spans[case]) >= len(expected_chord(case)) + 3 * (case != "group")
                for case in CHORDS
            )
            and finished.spans["periodic"].count(MEMBER) > 1
        )


def expected_chord(case: str) -> list[str]:
    return sorted(
        path
        for member, count in CHORDS[case].items()
        for path in expected_spans([member])
        for _ in range(count)
    )


@pytest.fixture(scope="module")
def fleets(
    valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Running]]:
    """Run all fleets at once, for all of their cases."""
    running: dict[str, Running] = {}
    with ExitStack() as stack:
        for number, (name, (storage, kind, serializer)) in enumerate(FLEETS.items()):
            folder = tmp_path_factory.mktemp("huey")
            # Each has a separate database.
            redis = f"{valkey.url.rpartition('/')[0]}/{number + 1}"
            broker = redis if storage == "redis" else f"{storage}:{folder / 'queue'}"
            receiver = stack.enter_context(Receiver())
            processes = Processes(folder)
            stack.callback(processes.stop, grace=0)
            fleet = Fleet(broker, receiver, processes, folder, APP_SERIALIZER=serializer)
            running[name] = Running(fleet, kind)
        for one in running.values():
            one.end()
        yield running


@pytest.fixture(params=FLEETS)
def run(request: pytest.FixtureRequest, fleets: dict[str, Running]) -> Running:
    return fleets[request.param]


@pytest.mark.parametrize("case", LEAVES)
def test_each_end_has_its_trace_and_its_counts(run: Running, case: str) -> None:
    expected = expected_spans(LEAVES[case])
    assert run.finished.spans[case] == expected
    assert run.finished.counts[case] == counted(expected)


@pytest.mark.parametrize("case", CHORDS)
def test_the_callback_of_a_chord_is_below_its_last_member(run: Running, case: str) -> None:
    spans = Counter(run.finished.spans[case])
    below = {path for path in spans if "submit then" in path}
    assert sorted((spans - Counter(dict.fromkeys(below, 1))).elements()) == expected_chord(case)
    if case == "group":
        assert not below
    else:
        last = min(below, key=len).removesuffix(" > submit then")
        assert last in expected_chord(case)
        assert below == set(expected_spans([f"{last} {CALLBACK}"])) - set(expected_spans([last]))
    counts = run.finished.counts[case]
    ended = sum(count for name, count in counts.items() if name.startswith("task.completed"))
    assert counts["task.submitted"] == counts["task.dispatched"] == ended == 2 + (case != "group")


def test_each_run_of_a_periodic_task_is_a_trace_that_names_it(run: Running) -> None:
    spans = [s for s in run.fleet.receiver.spans() if s.name.endswith(".periodic")]
    roots = [span for span in spans if not span.parent_id]
    assert len(roots) > 1
    assert len({span.trace_id for span in roots}) == len(roots)
    assert {span.name.partition(" ")[0] for span in roots} == {"submit"}
    assert {span.attributes["task.schedule"] for span in spans} == {"periodic"}
    assert set(run.finished.spans["periodic"]) >= set(expected_spans([MEMBER]))


def test_nothing_ran_that_should_not_and_nothing_is_told(run: Running) -> None:
    assert run.fleet.notes() == [["unencodable", "TypeError"]]
    assert SECRET.encode() not in run.raw
    assert COMPLAINTS.findall(run.log) == []


def test_every_span_names_the_queue_and_what_carries_it(run: Running) -> None:
    storage = run.fleet.env["APP_BROKER"].partition(":")[0]
    for span in run.fleet.receiver.spans():
        if span.scope == "otel_queue_bridge":
            assert span.attributes["messaging.destination.name"] == "shop"
            assert span.attributes["huey.transport"] == storage
            assert ("server.address" in span.attributes) == (storage == "redis")
