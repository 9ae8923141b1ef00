"""RQ jobs that come from strangers: they run as always, and no worker looks into them."""

from collections.abc import Iterator

import pytest
from redis import Redis
from rq import Queue, Retry
from rq.job import Job
from rq.serializers import JSONSerializer

from otel_queue_bridge.otlp import Receiver
from tests.brokers.rq_fleet import Fleet, complaints, end, unclean
from tests.brokers.rq_hostile_app import Watched, Zipped
from tests.servers import Processes, Valkey

APP = "tests.brokers.rq_hostile_app"
PARENT = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"

JUNK = {
    "no JSON": b"traceparent",
    "no text": b"\xff\xfe\x00",
    "a list": b'["traceparent"]',
    "a number": b"1",
    "huge": b'{"traceparent": "' + b"0" * 5_000_000 + b'"}',
    "deep": b"[" * 200_000,
    "no trace": b'{"traceparent": 1, "tracestate": [], "baggage": {}, "otel-submitted": {}}',
    "a long attempt": b'{"otel-attempt": "' + b"9" * 30 + b'"}',
    "an endless attempt": b'{"otel-attempt": "' + b"9" * 5000 + b'"}',
    "no attempt": b'{"otel-attempt": {}}',
    "no name": b'{"otel-name": 7}',
    "no times": b'{"otel-submitted": "nan", "otel-planned": "inf"}',
}


class Hostile:
    """One worker with the default serializer, whose jobs are put in by hand."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.ids: dict[str, str] = {}
        with Redis.from_url(fleet.broker) as client:
            self.client = client
            for name, junk in JUNK.items():
                self.put(name, "ok", otel=junk)
            self.put("retried", "fails", otel=JUNK["no JSON"], retry=Retry(max=1))
            self.put("garbled", "ok", data=b"garbage", retry=None)
            self.put("truncated", "ok", data=b"\x80\x05", retry=None)
            self.put("missing", "missing")
            self.put("watched", "ok", Watched())
            self.put("watched, failing", "fails", Watched(), retry=Retry(max=1))
            self.put("peer", "ok", meta={"traceparent": PARENT})
            self.put("plain", "tells", meta={"user": "alice"})
            self.put("last", "ok")
        self.worker = fleet.worker(OTEL_PYTHON_QUEUE_BRIDGE_CAPTURE_ARGUMENTS=f"{APP}.ok:args")
        self.worker.wait_for(lambda: len(self.spans("last")) == 2)
        for again in ("retried", "watched, failing"):
            self.worker.wait_for(lambda: len(self.spans(again)) == 5)  # noqa: B023 - called at once
        # RQ 2.12's signal handler raises StopRequested even in the middle of a call to Redis.
        with Redis.from_url(fleet.broker) as client:
            self.worker.wait_for(lambda: any("b" in c["flags"] for c in client.client_list()))
        end(self.worker)

    def put(self, key: str, name: str, *args: object, **options: object) -> None:
        fields = {f: options.pop(f) for f in ("otel", "data") if f in options}
        queue = Queue("default", connection=self.client)
        job = Job.create(
            f"{APP}.{name}",
            args,
            connection=self.client,
            origin="default",
            meta=options.get("meta"),
        )
        if retry := options.get("retry"):
            job.retries_left = retry.max
        queue.enqueue_job(job)
        if fields:
            self.client.hset(job.key, mapping=fields)
        self.ids[key] = job.id

    def spans(self, key: str) -> list[str]:
        spans = self.fleet.receiver.spans()
        mine = (s for s in spans if s.attributes.get("messaging.message.id") == self.ids[key])
        words = ("messaging.operation.name", "task.status", "error.type")
        ordered = sorted(mine, key=lambda span: span.start)
        return [" ".join(filter(None, map(s.attributes.get, words))) for s in ordered]


@pytest.fixture(scope="module")
def hostile(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    folder = tmp_path_factory.mktemp("hostile")
    with Receiver() as receiver:
        fleet = Fleet(valkey.url, receiver, Processes(folder), folder, APP)
        try:
            yield Hostile(fleet)
        finally:
            fleet.stop()


@pytest.mark.parametrize("junk", JUNK)
def test_a_carrier_of_junk_is_none(hostile: Hostile, junk: str) -> None:
    assert hostile.spans(junk) == ["dispatch", "execute success"]


def test_junk_is_replaced_when_the_job_is_tried_again(hostile: Hostile) -> None:
    assert hostile.spans("retried") == [
        "dispatch",
        "execute retry ValueError",
        "submit",
        "dispatch",
        "execute failure ValueError",
    ]
    spans = hostile.fleet.receiver.spans()
    mine = [s for s in spans if s.attributes["messaging.message.id"] == hostile.ids["retried"]]
    assert len({span.trace_id for span in mine}) == 1


@pytest.mark.parametrize("data", ["garbled", "truncated"])
def test_data_that_nobody_can_read_is_a_failure(hostile: Hostile, data: str) -> None:
    assert hostile.spans(data) == ["dispatch", "execute failure rq.exceptions.DeserializationError"]
    assert hostile.fleet.finished().counts["unknown"] == {
        "task.dispatched": 2,
        "task.completed failure rq.exceptions.DeserializationError": 2,
        "task.duration failure rq.exceptions.DeserializationError": 2,
    }


def test_a_function_that_is_not_there_is_a_failure(hostile: Hostile) -> None:
    assert hostile.spans("missing") == ["dispatch", "execute failure ValueError"]


def test_only_the_horse_unpickles(hostile: Hostile) -> None:
    """The same holds if an argument is to be recorded, and if a job is retried."""
    assert hostile.spans("watched") == ["dispatch", "execute success"]
    ran = {pid for *_, pid in hostile.fleet.notes("ok")}
    unpickled = hostile.fleet.notes("unpickled")
    assert len(unpickled) == 3
    assert len({parent for _, parent, _ in unpickled}) == 1
    assert {parent for _, parent, _ in unpickled}.isdisjoint(pid for *_, pid in unpickled)
    assert len(ran & {pid for *_, pid in unpickled}) == 1


def test_what_is_listed_is_recorded_by_the_horse_alone(hostile: Hostile) -> None:
    spans = hostile.fleet.receiver.spans()
    mine = [s for s in spans if s.attributes["messaging.message.id"] == hostile.ids["watched"]]
    told = {
        s.attributes["messaging.operation.name"]: s.attributes.get("task.argument.args")
        for s in mine
    }
    assert told["dispatch"] is None
    assert "Watched object" in told["execute"]


def test_a_peers_trace_is_read_from_meta(hostile: Hostile) -> None:
    spans = hostile.fleet.receiver.spans()
    mine = [s for s in spans if s.attributes["messaging.message.id"] == hostile.ids["peer"]]
    (dispatch,) = (s for s in mine if s.name.startswith("dispatch"))
    assert f"00-{dispatch.trace_id}-{dispatch.parent_id}-01" == PARENT


def test_the_worker_ran_on(hostile: Hostile) -> None:
    assert hostile.spans("last") == ["dispatch", "execute success"]
    assert unclean(hostile.fleet.receiver) == []
    complained = complaints(hostile.worker)
    assert [line for line in complained if "Job.restore" not in line] == []
    assert len(complained) <= 1


class Mixed:
    """Callers and workers with and without us, and two serializers beside the default one."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        with Redis.from_url(fleet.broker) as client:
            for name, serializer in (("zipped", Zipped), ("json", JSONSerializer), ("plain", None)):
                queue = Queue(name, connection=client, serializer=serializer)
                queue.enqueue(f"{APP}.{'tells' if name == 'plain' else 'ok'}")
        zipped, as_json = f"{APP}.Zipped", "rq.serializers.JSONSerializer"
        fleet.caller().ask(
            [
                ["zipped", zipped, "ok", False],
                ["zipped", zipped, "fails", True],
                ["json", as_json, "ok", False],
                ["plain", None, "tells", False],
            ]
        )
        fleet.end_callers()
        self.workers = [
            fleet.worker("zipped", "--serializer", zipped, "--burst", ready=None),
            fleet.worker("json", "--serializer", as_json, "--burst", ready=None),
            fleet.worker("plain", "--burst", command=(), ready=None),
        ]
        for worker in self.workers:
            assert worker.wait() == 0, worker.log()

    def spans(self, queue: str) -> list[str]:
        spans = self.fleet.receiver.spans()
        mine = [s for s in spans if s.attributes["messaging.destination.name"] == queue]
        return sorted(s.name.replace(f"{APP}.", "") for s in mine)


@pytest.fixture(scope="module")
def mixed(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mixed]:
    folder = tmp_path_factory.mktemp("mixed")
    with Receiver() as receiver:
        fleet = Fleet(valkey.url, receiver, Processes(folder), folder, APP)
        try:
            yield Mixed(fleet)
        finally:
            fleet.stop()


def test_a_job_in_json_is_named_also_a_strangers(mixed: Mixed) -> None:
    assert mixed.spans("json") == ["dispatch ok"] * 2 + ["execute ok"] * 2 + ["submit ok"]


def test_a_job_that_only_its_own_serializer_reads_is_named_by_the_caller(mixed: Mixed) -> None:
    assert mixed.spans("zipped") == [
        *["dispatch fails"] * 2,
        "dispatch ok",
        "dispatch unknown",
        *["execute fails"] * 2,
        "execute ok",
        "execute unknown",
        *["submit fails"] * 2,
        "submit ok",
    ]
    counts = mixed.fleet.finished().counts["fails"]
    assert counts["task.retried"] == counts["task.completed failure ValueError"] == 1


def test_no_worker_uses_a_users_serializer(mixed: Mixed) -> None:
    unzipped = mixed.fleet.notes("unzipped")
    workers = {parent for _, parent, _ in unzipped}
    assert len(workers) == 1
    assert workers.isdisjoint(pid for *_, pid in unzipped)


def test_a_worker_that_is_not_instrumented_sees_no_difference(mixed: Mixed) -> None:
    plain, traced = mixed.fleet.notes("seen")
    assert traced[1:6] == plain[1:6] == [{}, "()", "{}", f"{APP}.tells()", False]
    assert mixed.spans("plain") == ["submit tells"]


def test_a_mixed_fleet_has_nothing_to_complain_about(mixed: Mixed) -> None:
    assert [line for worker in mixed.workers for line in complaints(worker)] == []
    assert unclean(mixed.fleet.receiver, workers=2) == []
