"""What came with RQ 3, and what it does to workers that were written for RQ 2."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from redis import Redis
from rq import Callback, Queue, Retry

from otel_queue_bridge.otlp import Receiver
from tests.brokers.rq_fleet import Fleet, complaints, end, unclean
from tests.servers import Processes, Valkey

APP = "tests.brokers.rq_app"
pytestmark = pytest.mark.skipif(int(version("rq").split(".")[0]) < 3, reason="this is RQ 2")
TASK = ["submit", "submit > dispatch", "submit > dispatch > execute success"]


@pytest.fixture
def fleet(
    valkey: Valkey, receiver: Receiver, processes: Processes, tmp_path: Path
) -> Iterator[Fleet]:
    fleet = Fleet(valkey.url, receiver, processes, tmp_path, APP)
    yield fleet
    fleet.stop()


@pytest.fixture
def calls() -> Iterator[list[str]]:
    """Return the paths for which a web server here is asked."""
    calls: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            calls.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        calls.append(f"http://127.0.0.1:{server.server_port}")
        yield calls
        server.shutdown()
        thread.join()


def test_an_abandoned_job_reaches_its_callback_its_handler_and_its_webhook(
    fleet: Fleet, calls: list[str]
) -> None:
    """Callback and handler get None as the traceback."""
    from rq.webhook import Webhook

    worker = fleet.worker()
    fleet.enqueue(
        "gate",
        on_failure=Callback(f"{APP}.note_failure"),
        webhooks=[Webhook(calls.pop() + "/failed", "failed")],
    )
    worker.wait_for(lambda: fleet.notes("gate"))
    worker.lose_power()
    with Redis.from_url(fleet.broker) as client:
        for entry in client.zrange("rq:wip:default", 0, -1):
            client.zadd("rq:wip:default", {entry: 1})
    handler = ("--exception-handler", f"{APP}.note_exception")
    end = fleet.worker("default", "--burst", *handler, ready=None)
    assert end.wait() == 0
    abandoned = ["AbandonedJobError", True]
    assert [note[1:3] for note in fleet.notes("callback")] == [abandoned]
    assert [note[1:3] for note in fleet.notes("handler")] == [abandoned]
    assert calls == ["/failed"]
    found = fleet.finished()
    (execute,) = (path for path in found.spans["gate"] if "execute" in path)
    assert execute == "execute failure ERROR rq.exceptions.AbandonedJobError"
    assert complaints(end) + unclean(fleet.receiver, workers=2) == []


def test_keys_may_have_another_prefix(fleet: Fleet) -> None:
    other = {"RQ_KEY_PREFIX": "shop"}
    worker = fleet.worker(**other)
    caller = fleet.caller(**other)
    caller.ask([["gate"]])
    worker.wait_for(lambda: fleet.notes("gate"))
    caller.ask([["success"], ["retry"], ["success"]])

    def depth() -> list[float]:
        return [p.value for p in fleet.receiver.latest() if p.metric == "task.queue.depth"]

    worker.wait_for(lambda: depth() == [3])
    fleet.open_gate()
    fleet.spans(lambda spans: len(spans) == 3 * 3 + 6)
    with Redis.from_url(fleet.broker) as client:
        assert not client.keys("rq:*")
    end(worker)
    found = fleet.finished()
    assert found.spans["gate"] == TASK
    assert found.spans["success"] == sorted(TASK * 2)
    assert found.counts["retry"]["task.retried"] == 1
    assert complaints(worker) + unclean(fleet.receiver) == []


def test_a_worker_written_for_rq_2_fails_as_it_does_without_us(fleet: Fleet) -> None:
    """Its `perform_job` takes no execution: RQ ends the work-horse, and says so."""
    worker = fleet.worker(kind=f"{APP}.ForRQ2")
    job = fleet.enqueue("success")
    worker.wait_for(lambda: job.get_status() == "failed")
    end(worker)
    done = fleet.finished()
    assert done.spans["success"] == ["dispatch", "dispatch > execute failure ERROR exit status 1"]
    assert done.counts["success"] == Counter(
        {
            "task.dispatched": 1,
            "task.completed failure exit status 1": 1,
            "task.duration failure exit status 1": 1,
        }
    )
    assert complaints(worker) + unclean(fleet.receiver) == []


def test_what_a_rate_limit_holds_back_is_delayed(fleet: Fleet) -> None:
    from rq.rate_limit import RateLimit

    worker = fleet.worker("default", "high")
    with Redis.from_url(fleet.broker) as client:
        for name, count in {"default": 4, "high": 2, "of others": 3}.items():
            for _ in range(count):  # one limit for all
                queue = Queue(name, connection=client)
                queue.enqueue(f"{APP}.gate", rate_limit=RateLimit("one", 1))

    def last(metric: str) -> dict[str, float]:
        return {
            point.attributes["messaging.destination.name"]: point.value
            for point in fleet.receiver.latest()
            if point.metric == metric
        }

    worker.wait_for(lambda: last("task.queue.delayed") == {"default": 3, "high": 2})
    worker.wait_for(lambda: last("task.queue.depth") == {"default": 0, "high": 0})
    fleet.open_gate()
    end(worker)
    assert complaints(worker) == []


def test_a_slot_that_a_killed_job_held_goes_to_the_next(fleet: Fleet) -> None:
    from rq.rate_limit import RateLimit

    worker = fleet.worker("default", "--with-scheduler")
    with Redis.from_url(fleet.broker) as client:
        queue = Queue("default", connection=client)
        limit = RateLimit("one", 1)
        for name in ("killed", "killed_and_retried", "success"):
            retry = Retry(max=1) if name.endswith("retried") else None
            queue.enqueue(f"{APP}.{name}", rate_limit=limit, retry=retry)
    fleet.spans(lambda spans: len(spans) == 2 + 5 + 2)
    end(worker)
    done = fleet.finished()
    dispatched = ["dispatch", "dispatch > execute success"]
    assert done.spans["killed"] == ["dispatch", "dispatch > execute failure ERROR SIGKILL"]
    assert done.spans["success"] == dispatched
    again = "dispatch > execute retry ERROR SIGKILL > submit #2"
    assert done.spans["killed_and_retried"][-1] == f"{again} > dispatch #2 > execute #2 success"
    assert done.counts["success"] == Counter(
        {"task.dispatched": 1, "task.completed success": 1, "task.duration success": 1}
    )
    assert complaints(worker) + unclean(fleet.receiver) == []
