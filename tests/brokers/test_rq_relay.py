"""A work-horse reports everything, and the same, through its worker or by itself."""

import os
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from rq import Worker
from rq.job import JobStatus
from rq.worker import WorkerStatus

from otel_queue_bridge.otlp import Receiver, Span, read_spans
from tests.brokers.rq_fleet import SCOPE, Fleet, complaints, end, unclean
from tests.servers import LIMIT, Processes, Valkey, free_port, wait_until

APP = "tests.brokers.rq_relay_app"
EXPORT = "OTEL_PYTHON_QUEUE_BRIDGE_CHILD_EXPORT"
WITH_PROCESSORS = f"{APP}.WithProcessors"
MANY = 5000
TIMEOUT = "rq.timeouts.JobTimeoutException"


class Told:
    """All that the jobs of one worker report, with a user's processors beside the SDK's."""

    def __init__(self, fleet: Fleet, export: str) -> None:
        self.fleet = fleet
        worker = fleet.worker(
            kind=WITH_PROCESSORS, OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="10", **{EXPORT: export}
        )
        for name in ("rich", "deep", "large", "forks", "quick"):
            fleet.enqueue(name)
        worker.wait_for(lambda: fleet.notes("quick"))
        end(worker)
        self.complaints = complaints(worker) + unclean(fleet.receiver)

    def spans(self, name: str) -> list[Span]:
        return [s for s in self.fleet.receiver.spans() if s.name.replace(f"{APP}.", "") == name]

    def span(self, name: str) -> Span:
        (span,) = self.spans(name)
        return span


@pytest.fixture(scope="module", params=["relay", "own"])
def told(
    request: pytest.FixtureRequest, valkey: Valkey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Told]:
    folder = tmp_path_factory.mktemp("relay")
    with Receiver() as receiver:
        fleet = Fleet(valkey.url, receiver, Processes(folder), folder, APP)
        try:
            yield Told(fleet, request.param)
        finally:
            fleet.stop()


@pytest.fixture
def fleet(
    valkey: Valkey, receiver: Receiver, processes: Processes, tmp_path: Path
) -> Iterator[Fleet]:
    fleet = Fleet(valkey.url, receiver, processes, tmp_path, APP)
    yield fleet
    fleet.stop()


def test_a_span_arrives_as_it_was(told: Told) -> None:
    span, execute = told.span("rich"), told.span("execute rich")
    (note,) = told.fleet.notes("rich")
    assert (int(span.span_id, 16), span.trace_id) == (note[1], execute.trace_id)
    assert span.parent_id == execute.span_id
    assert execute.start < span.start < span.end < execute.end
    assert (span.kind, span.status, span.status_message) == ("CLIENT", "ERROR", "it says")
    assert span.attributes == {
        "flag": True,
        "whole": 2**62,
        "part": 0.1,
        "texts": ["ä", "b"],
        "none": [],
        "stamp": "of the user",
    }
    (event,) = span.events
    assert (event.name, event.time, event.attributes) == (
        "event",
        1_700_000_000_000_000_001,
        {"size": 3},
    )
    (link,) = span.links
    assert (int(link.trace_id, 16), int(link.span_id, 16)) == (0xA, 0xB)
    assert link.attributes == {"why": "because"}
    assert (span.scope, span.scope_version, span.service) == ("user", "1.0", "worker")


def test_a_stack_of_several_pieces_arrives_whole(told: Told) -> None:
    span = told.span("execute deep")
    (event,) = span.events
    stack = event.attributes["exception.stacktrace"]
    assert stack.startswith("Traceback (most recent call last)")
    assert stack.endswith("ü" * 5000 + "\n")
    assert len(stack) > 4096


def test_large_attributes_arrive_whole(told: Told) -> None:
    assert told.span("large").attributes["text"] == "x" * 200_000
    assert told.span("medium").attributes["text"] == "y" * 50_000
    assert told.span("large").parent_id == told.span("execute large").span_id


def test_a_process_of_the_jobs_own_exports_its_spans(told: Told) -> None:
    assert [code for _, code, _ in told.fleet.notes("grandchild")] == [0]
    assert told.span("grandchild").parent_id == told.span("parent").span_id
    assert told.span("parent").parent_id == told.span("execute forks").span_id


def test_the_users_processors_see_what_they_always_saw(told: Told) -> None:
    """They see each span once, stamped, in the process where it began and ended."""
    names = Counter(
        span.name for span in told.fleet.receiver.spans() if not span.name.startswith("dispatch")
    )
    (quick,) = told.fleet.notes("quick")
    for kind in ("ended", "exported"):
        seen = [note for note in told.fleet.notes(kind) if not note[1].startswith("dispatch")]
        assert Counter(note[1] for note in seen) == names
        assert [note[2] for note in seen if note[1] == "inner"] == [quick[1]]
    assert {s.attributes["stamp"] for s in told.fleet.receiver.spans()} == {"of the user"}


def test_nothing_came_twice_and_nobody_complained(told: Told) -> None:
    assert told.complaints == []


def parts(fleet: Fleet) -> list[int]:
    spans = fleet.receiver.spans()
    return sorted(s.attributes["i"] for s in spans if s.name == "one of many")


ROOM = {"OTEL_BSP_MAX_QUEUE_SIZE": "10000"}
"""The SDK's own queue drops spans that come faster than it exports them."""


@pytest.mark.parametrize("export", ["relay", "own"])
def test_a_job_with_thousands_of_spans_loses_none(fleet: Fleet, export: str) -> None:
    worker = fleet.worker(**ROOM, **{EXPORT: export})
    fleet.enqueue("many", MANY)
    fleet.enqueue("quick")
    worker.wait_for(lambda: fleet.notes("quick"))
    end(worker)
    assert parts(fleet) == list(range(MANY))
    assert_each_job_told_once(fleet, "many", "quick")
    assert complaints(worker) + unclean(fleet.receiver) == []


def assert_each_job_told_once(fleet: Fleet, *names: str) -> None:
    spans = Counter(s.name.replace(f"{APP}.", "") for s in fleet.receiver.spans())
    for name in names:
        assert (spans[f"dispatch {name}"], spans[f"execute {name}"]) == (1, 1)
        counts = fleet.finished().counts[name]
        assert counts == {
            "task.dispatched": 1,
            "task.completed success": 1,
            "task.duration success": 1,
        }


def horse(fleet: Fleet) -> int:
    return int(fleet.notes("gate")[0][-1])


def ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def test_a_worker_that_hangs_holds_up_no_horse(fleet: Fleet) -> None:
    """Its pipe is full: the horse exports by itself, and its other reports are read later."""
    worker = fleet.worker(**ROOM)
    fleet.enqueue("gate", MANY)
    worker.wait_for(lambda: fleet.notes("gate"))
    parent = fleet.notes("gate")[0][1]
    os.kill(parent, signal.SIGSTOP)
    fleet.open_gate()
    wait_until(lambda: fleet.notes("passed"))
    wait_until(lambda: ended(horse(fleet)))
    os.kill(parent, signal.SIGCONT)
    worker.wait_for(lambda: fleet.finished().counts["gate"]["task.completed success"])
    end(worker)
    assert parts(fleet) == list(range(MANY))
    assert_each_job_told_once(fleet, "gate")
    assert unclean(fleet.receiver) == []


def test_a_worker_that_dies_holds_up_no_horse(fleet: Fleet) -> None:
    worker = fleet.worker(**ROOM)
    fleet.enqueue("gate", MANY)
    worker.wait_for(lambda: fleet.notes("gate"))
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    fleet.open_gate()
    wait_until(lambda: fleet.notes("passed"))
    wait_until(lambda: ended(horse(fleet)))
    assert parts(fleet) == list(range(MANY))
    # The horse then counts for itself.
    assert unclean(fleet.receiver, workers=2) == []


IMPATIENT = {
    "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    "OTEL_METRIC_EXPORT_TIMEOUT": "1000",
    "OTEL_BSP_EXPORT_TIMEOUT": "1000",
}


@pytest.mark.parametrize(
    ("collector", "export"), [("hanging", "relay"), ("hanging", "own"), ("absent", "own")]
)
def test_a_dead_collector_loses_no_job(
    valkey: Valkey, processes: Processes, tmp_path: Path, collector: str, export: str
) -> None:
    jobs = 5
    with Receiver(hang=True) as receiver:
        fleet = Fleet(valkey.url, receiver, processes, tmp_path, APP)
        absent = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
        env = IMPATIENT | (absent if collector == "absent" else {})
        limit = {"OTEL_PYTHON_QUEUE_BRIDGE_FLUSH_TIMEOUT": "0.3"}
        worker = fleet.worker(**env, **limit, **{EXPORT: export})
        for _ in range(jobs):
            fleet.enqueue("quick")
        worker.wait_for(lambda: len(fleet.notes("quick")) == jobs)
        worker.stop(signal.SIGTERM)
        late = worker.log().count("could not export all it held within flush_timeout")
        # Under relay no horse has anything to wait for; the worker itself has, when it ends.
        assert late <= (jobs + 1 if export == "own" else 1)
        assert len(fleet.notes("quick")) == jobs


@pytest.mark.parametrize("export", ["relay", "own"])
def test_a_time_limit_ends_a_job_wherever_it_strikes(fleet: Fleet, export: str) -> None:
    """It may strike within our code, where these jobs spend most of their time."""
    jobs = 6
    # The SDK drops the oldest where it exports too slowly; what matters here are the latest.
    pool = fleet.pool(3, OTEL_PYTHON_QUEUE_BRIDGE_FLUSH_TIMEOUT="20", **{EXPORT: export})
    busy = [fleet.enqueue("busy", job_timeout=1) for _ in range(jobs)]
    ended, idle = {JobStatus.FAILED, JobStatus.FINISHED}, WorkerStatus.IDLE
    pool.wait_for(lambda: all(job.get_status() in ended for job in busy))
    # A worker that is about to wait for its next job may not see a signal before that wait ends,
    # after minutes; one that waits already sees it at once.
    pool.wait_for(
        lambda: {worker.get_state() for worker in Worker.all(busy[0].connection)} == {idle}
    )
    end(pool)
    assert fleet.notes("ran on") == []
    assert [job.get_status() for job in busy] == [JobStatus.FAILED] * jobs
    executes = [s for s in fleet.receiver.spans() if s.name == f"execute {APP}.busy"]
    assert [s.attributes.get("error.type") for s in executes] == [TIMEOUT] * jobs
    counts = fleet.finished().counts["busy"]
    assert counts[f"task.completed failure {TIMEOUT}"] == jobs


class Connections(Receiver):
    """Notes whose spans came over each connection; each connection has a separate thread."""

    def __init__(self) -> None:
        super().__init__()
        self.senders: defaultdict[threading.Thread, set[str]] = defaultdict(set)

    def _answer(self, path: str, encoding: str, body: bytes) -> tuple[int, bytes]:
        if path == "/v1/traces":
            for span in read_spans(ExportTraceServiceRequest.FromString(body)):
                sender = "worker" if span.name.startswith("dispatch") else span.trace_id
                self.senders[threading.current_thread()].add(sender)
        return super()._answer(path, encoding, body)


@pytest.mark.parametrize("export", ["relay", "own"])
def test_no_connection_serves_two_processes(
    valkey: Valkey, processes: Processes, tmp_path: Path, export: str
) -> None:
    with Connections() as receiver:
        fleet = Fleet(valkey.url, receiver, processes, tmp_path, APP)
        worker = fleet.worker(OTEL_BSP_SCHEDULE_DELAY="10", **{EXPORT: export})
        for number in range(1, 11):  # one by one: the worker has an idle connection at each fork
            fleet.enqueue("quick")
            receiver.wait_for(lambda spans: len(spans) == 3 * number, LIMIT)  # noqa: B023
        end(worker)
        senders = list(receiver.senders.values())
    if export == "relay":
        assert len(senders) == 1
    else:
        assert [len(those) for those in senders] == [1] * 11
    assert unclean(receiver) == []


@pytest.mark.parametrize("export", ["relay", "own"])
def test_no_horse_exports_metrics_however_long_its_job(fleet: Fleet, export: str) -> None:
    """They are forked after the worker has counted, and live for many export intervals."""
    fast = {"OTEL_METRIC_EXPORT_INTERVAL": "200", "OTEL_BSP_SCHEDULE_DELAY": "10"}
    worker = fleet.worker(**fast, **{EXPORT: export})
    for _ in range(15):
        fleet.enqueue("quick")
    fleet.enqueue("gate")
    worker.wait_for(lambda: fleet.notes("gate"))
    worker.wait_for(lambda: fleet.finished().counts["quick"]["task.completed success"] == 15)

    def exports() -> int:
        return sum(p.metric == "task.workers.active" for p in fleet.receiver.points())

    seen = exports()
    worker.wait_for(lambda: exports() > seen + 8)
    fleet.open_gate()
    worker.wait_for(lambda: fleet.notes("passed"))
    end(worker)
    spans = Counter(span.name.replace(f"{APP}.", "") for span in fleet.receiver.spans())
    assert spans == {
        "dispatch quick": 15,
        "execute quick": 15,
        "inner": 15,
        "dispatch gate": 1,
        "execute gate": 1,
    }
    assert complaints(worker) + unclean(fleet.receiver) == []
    assert {p.scope for p in fleet.receiver.points()} == {SCOPE}
