"""RQ's ways to enqueue: each in one trace, below the span that enqueued, nothing changed."""

import json
import pickle
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from inspect import signature
from types import SimpleNamespace

import pytest
import rq
from redis import ConnectionPool, Redis
from rq.job import Job

from otel_queue_bridge.adapters.rq import queues
from otel_queue_bridge.adapters.rq.reading import name
from otel_queue_bridge.otlp import Receiver, Span
from tests.brokers.rq_fleet import SCOPE, Fleet, complaints, end, unclean
from tests.brokers.shop import SECRET, paths
from tests.servers import CLOCK, LIMIT, Processes, Valkey

APP = "tests.brokers.rq_submits_app"
PASSWORD = "hunter2"  # noqa: S105


def job(name: str, *below: str, status: str = "") -> list[str]:
    """Return the paths of a job that a worker ran, and of all that was submitted inside it."""
    ran = f"submit {name} > dispatch {name} > execute {name}"
    return [
        f"submit {name}",
        f"submit {name} > dispatch {name}",
        ran + status,
        *(f"{ran}{status} > {path}" for path in below),
    ]


def later(*paths: str) -> list[str]:
    return ["later", *(f"later > {path}" for path in paths)]


def here(name: str, *below: str, status: str = "") -> list[str]:
    ran = f"submit {name} > execute {name}{status}"
    return [f"submit {name}", ran, *(f"{ran} > {path}" for path in below)]


RETRIED = job("retries", *job("retries"), status=" ERROR")

WAYS = {
    "enqueue": job("a"),
    "enqueue_call": job("a"),
    "by name": job("a"),
    "with an id": job("a"),
    "enqueue_many": [*job("a"), *job("b")],
    "enqueue_many, unmet": [*job("slow"), *later(*job("b"), *job("c"))],
    "enqueue_many, met": [*job("a"), *later(*job("b"), *job("c"))],
    "enqueue_many, refused": ["submit a ERROR", "submit b ERROR"],
    "enqueue_in": job("a"),
    "enqueue_at": job("a"),
    "method": job("Shop.order"),
    "object": job("Shop.__call__"),
    "class method": job("Shop.restock"),
    "unique, without an id": ["submit a ERROR"],
    "unique": job("a"),
    "duplicate": [*job("a"), "submit a ERROR"],
    "pipeline": job("a"),
    "depends_on, unmet": [*job("slow"), *later(*job("b"))],
    "depends_on, met": [*job("a"), *later(*job("b"))],
    "depends_on two": [*job("slow"), *job("slow"), *later(*job("b"))],
    "depends_on a failure": [*job("fails", status=" ERROR"), *later(*job("b"))],
    "two queues": [*job("a"), *later(*job("b"))],
    "nested": job("nests", *job("b")),
    "nested enqueue_many": job("nests_many", *job("b"), *job("b")),
    "retry": RETRIED,
    "retry with interval": RETRIED,
    "requeue": [*job("fails", status=" ERROR"), *later(*job("fails", status=" ERROR"))],
    "repeat": job("a", *job("a")),
    "cron job": [*job("tells"), *job("tells")],
    "cron scheduler": job("a"),
    "saved": job("saves"),
    "shared meta": [*job("tells"), *job("tells")],
    "duplicate, later": [*job("a"), "submit a ERROR"],
    "cancelled": ["submit a", *later(*job("b"))],
    "rate limit": job("limited") * 3,
    "rate limit, in": job("a"),
    "rate limit, retry": RETRIED,
    "rate limit, retry with interval": RETRIED,
    "rate limit, depends_on": [*job("slow"), *later(*job("b")) * 2],
    "rate limit, requeue": [
        *job("fails", status=" ERROR"),
        *later(*job("fails", status=" ERROR")),
    ],
    "here": here("a"),
    "here, failing": here("fails", status=" ERROR"),
    "here, many": [*here("a"), *here("b")],
    "here, nested": here("nests", *job("b")),
}
if not hasattr(rq, "Repeat"):
    del WAYS["repeat"]
if "unique" not in signature(rq.Queue.enqueue_call).parameters:
    del WAYS["unique"], WAYS["duplicate"], WAYS["unique, without an id"]
if find_spec("rq.cron") is None:
    del WAYS["cron job"], WAYS["cron scheduler"]
if find_spec("rq.rate_limit") is None:
    del WAYS["duplicate, later"]
    WAYS = {way: below for way, below in WAYS.items() if not way.startswith("rate limit")}
SUBMITTED_AGAIN = {way for way in WAYS if "retry" in way}
"""Ways in which a submit is a retry, and so no new task."""


class Submitted:
    """Enqueue in every way, on a Valkey that asks for a password."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        worker = fleet.worker("default", "other", "--with-scheduler")
        fleet.caller().ask(list(WAYS))
        fleet.end_callers()
        expected = sum(len(below) + 1 for below in WAYS.values())
        fleet.spans(lambda spans: len(spans) >= expected)
        end(worker)
        self.spans = fleet.spans(bool)
        self.complaints = complaints(worker) + unclean(fleet.receiver)

    def of(self, way: str) -> list[Span]:
        (root,) = (span for span in self.spans if span.name == way)
        return [s for s in self.spans if s.trace_id == root.trace_id and s is not root]


@pytest.fixture(scope="module")
def submitted(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Submitted]:
    with valkey.client() as client:
        for user, denied in (("shop", ()), ("poor", ("-rpush", "-lpush"))):
            client.acl_setuser(
                user,
                enabled=True,
                passwords=[f"+{PASSWORD}"],
                keys="*",
                channels="*",
                commands=["+@all", *denied],
            )
    folder = tmp_path_factory.mktemp("submits")
    broker = valkey.url.replace("://", f"://shop:{PASSWORD}@")
    with Receiver() as receiver:
        fleet = Fleet(broker, receiver, Processes(folder), folder, APP)
        try:
            yield Submitted(fleet)
        finally:
            fleet.stop()


def words(span: Span) -> str:
    name = span.name.replace(f"{APP}.", "")
    return f"{name} {span.status}".removesuffix(" UNSET")


@pytest.mark.parametrize("way", WAYS)
def test_way(submitted: Submitted, way: str) -> None:
    path = paths(submitted.spans, words)
    found = sorted(path[span.span_id].removeprefix(f"{way} > ") for span in submitted.of(way))
    assert found == sorted(WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_attempts_are_counted_for_retries_alone(submitted: Submitted, way: str) -> None:
    attempts = [s.attributes["task.attempt"] for s in submitted.of(way) if s.scope == SCOPE]
    assert set(attempts) == ({1, 2} if way in SUBMITTED_AGAIN else {1})


SCHEDULES = {"repeat": f"{APP}.a", "cron job": f"{APP}.tells", "cron scheduler": f"{APP}.a"}


@pytest.mark.parametrize("way", WAYS)
def test_runs_of_a_schedule_name_it(submitted: Submitted, way: str) -> None:
    schedules = {s.attributes.get("task.schedule") for s in submitted.of(way) if s.scope == SCOPE}
    assert schedules == {SCHEDULES.get(way)}


def test_what_was_submitted_was_completed_and_counted_once(submitted: Submitted) -> None:
    expected: Counter[str] = Counter()
    spans = [span for span in submitted.spans if span.scope == SCOPE]
    for span in spans:
        name = span.name.rpartition(".")[2]
        if span.name.startswith("submit") and span.status == "UNSET":
            expected[f"task.submitted {name}"] += span.attributes["task.attempt"] == 1
        if span.name.startswith("execute") and span.attributes["task.status"] != "retry":
            expected[f"task.completed {name}"] += 1
    counted: Counter[str] = Counter()
    for name, counts in submitted.fleet.finished().counts.items():
        for kind, count in counts.items():
            metric = kind.partition(" ")[0]
            if metric in ("task.submitted", "task.completed"):
                counted[f"{metric} {name}"] += count
    assert counted == expected


def test_waiting_for_another_job_or_a_planned_time_is_no_waiting(submitted: Submitted) -> None:
    for way in ("depends_on, unmet", "enqueue_in", "retry with interval", "enqueue_many, unmet"):
        for span in submitted.of(way):
            if span.name.startswith("execute"):
                submit = min(s.start for s in submitted.of(way))
                elapsed = (span.start - submit) / 1e9
                assert span.attributes["task.wait"] <= elapsed + CLOCK
    (execute,) = (s for s in submitted.of("depends_on, unmet") if s.name == f"execute {APP}.b")
    (submit,) = (s for s in submitted.of("depends_on, unmet") if s.name == f"submit {APP}.b")
    elapsed = (execute.start - submit.start) / 1e9
    assert execute.attributes["task.wait"] <= elapsed - 0.3 + CLOCK  # the other job took that long


@pytest.mark.skipif("rate limit" not in WAYS, reason="this RQ has no rate limits")
def test_waiting_for_a_rate_limit_is_no_waiting(submitted: Submitted) -> None:
    """Each of the three runs 0.3 s, and holds back the next: the last is held back for 0.6 s."""
    spans = submitted.of("rate limit")
    last = [s for s in spans if s.name.startswith("execute")][-1]
    (dispatch,) = (s for s in spans if s.span_id == last.parent_id)
    (submit,) = (s for s in spans if s.span_id == dispatch.parent_id)
    elapsed = (last.start - submit.start) / 1e9
    assert last.attributes["task.wait"] <= elapsed - 0.6 + CLOCK


def test_baggage_comes_along(submitted: Submitted) -> None:
    """It is in the carrier, which is one more field of the hash."""
    with Redis.from_url(submitted.fleet.broker) as client:
        carrier = json.loads(client.hget("rq:job:named", "otel"))
    assert carrier["baggage"] == "user=alice"


def test_saving_keeps_the_carrier_and_meta_is_the_users(submitted: Submitted) -> None:
    (note,) = submitted.fleet.notes("saved")
    assert note[1:4] == [{"user": "alice", "progress": 1}, True, ["progress", "user"]]


def test_neither_meta_nor_arguments_are_touched(submitted: Submitted) -> None:
    metas = [note[1] for note in submitted.fleet.notes("meta")]
    assert metas == [{"user": "alice"}] * (2 if "cron job" in WAYS else 1)
    seen = submitted.fleet.notes("seen")
    assert [note[1:4] for note in seen] == [[{"user": "alice"}, "()", "{}"]] * 2 * len(metas)
    assert all("otel" in fields for *_, fields, _ in seen)


@pytest.mark.skipif("duplicate" not in WAYS, reason="this RQ knows no unique jobs")
def test_a_duplicate_is_refused_as_ever(submitted: Submitted) -> None:
    ways = [way for way in ("duplicate", "duplicate, later") if way in WAYS]
    refused = [error for _, error, _ in submitted.fleet.notes("duplicate")]
    assert refused == ["DuplicateJobError"] * len(ways)
    for way in ways:
        (failed,) = (s for s in submitted.of(way) if s.status == "ERROR")
        assert failed.attributes["error.type"] == "rq.exceptions.DuplicateJobError"


@pytest.mark.skipif("unique" not in WAYS, reason="this RQ knows no unique jobs")
def test_a_unique_job_without_an_id_is_refused_as_ever(submitted: Submitted) -> None:
    assert [error for _, error, _ in submitted.fleet.notes("unnamed")] == ["ValueError"]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_method_is_named_with_its_class_though_its_caller_is_not_instrumented(
    protocol: int,
) -> None:
    """The worker reads the names of the pickled job, and unpickles nothing."""
    for instance, function, expected in [
        (None, "shop.order", "shop.order"),
        (Fraction(1, 3), "__call__", "fractions.Fraction.__call__"),
        (Fraction, "from_float", "fractions.Fraction.from_float"),
    ]:
        written = Job(connection=Redis())
        written.data = pickle.dumps((function, instance, (1, "a"), {"b": "c"}), protocol)
        assert name(written) == (expected if instance is None or protocol > 3 else function)


def test_what_redis_refuses_of_many_is_refused_as_ever(submitted: Submitted) -> None:
    assert [error for _, error, _ in submitted.fleet.notes("refused")] == ["NoPermissionError"]
    failed = submitted.of("enqueue_many, refused")
    assert [s.attributes["error.type"] for s in failed] == [
        "redis.exceptions.NoPermissionError"
    ] * 2


def test_a_synchronous_job_has_the_broker_of_its_submit(submitted: Submitted) -> None:
    submit, execute = submitted.of("here")
    assert submit.attributes["server.address"] == "127.0.0.1"
    assert "server.address" not in execute.attributes


def test_reading_the_depth_takes_no_connection_of_the_workers(redis_url: str) -> None:
    pool = ConnectionPool.from_url(redis_url, max_connections=1)
    queue = rq.Queue("deep", connection=Redis(connection_pool=pool))
    queue.enqueue("tests.brokers.rq_submits_app.a")
    only = pool.get_connection()
    worker = SimpleNamespace(connection=queue.connection, queues=[queue], job_class=Job)
    (reading,) = queues.readings(worker)
    assert reading[:-1] == (1, "deep", None, None, 0, 0)
    assert 0 <= reading.oldest < LIMIT
    pool.release(only)
    assert pool.get_connection() is only


def test_a_job_that_is_gone_or_does_not_tell_its_time_has_no_age(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        queue = rq.Queue("deep", connection=client)
        worker = SimpleNamespace(connection=client, queues=[queue], job_class=Job)
        assert [one.oldest for one in queues.readings(worker)] == [0]
        client.rpush(queue.key, "gone")
        (reading,) = queues.readings(worker)
        assert (reading.value, reading.oldest) == (1, None)
        client.hset("rq:job:gone", "enqueued_at", b"\x80 o'clock")
        (reading,) = queues.readings(worker)
        assert (reading.value, reading.oldest) == (1, None)


def test_nothing_secret_is_told(submitted: Submitted) -> None:
    raw = submitted.fleet.receiver.raw()
    for secret in (SECRET, PASSWORD):
        assert secret.encode() not in raw
    assert b"alice" not in raw


def test_nobody_has_anything_to_complain_about(submitted: Submitted) -> None:
    assert submitted.complaints == []
