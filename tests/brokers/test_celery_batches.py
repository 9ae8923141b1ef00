"""Strategies of others: batches have one execute, and whatever runs is counted."""

import re
import signal
from collections import Counter
from pathlib import Path

import pytest

from otel_queue_bridge.otlp import Receiver, Span
from tests.brokers.shop import Shop, paths
from tests.servers import Processes

SIZE = 3
POOLS = [("-P", "prefork", "-c", "1"), ("-P", "threads", "-c", "2"), ("-P", "solo")]


@pytest.fixture
def shop(redis_url: str, receiver: Receiver, processes: Processes, tmp_path: Path) -> Shop:
    return Shop(redis_url, receiver, processes, tmp_path, "tests.brokers.celery_batches_app")


def counts(receiver: Receiver) -> Counter[str]:
    found: Counter[str] = Counter()
    for point in receiver.latest():
        if "task.name" in point.attributes:
            status = point.attributes.get("task.status", "")
            found[f"{point.metric} {status}".strip()] += point.count or int(point.value)
    return found


def named(spans: list[Span], name: str) -> list[Span]:
    return [span for span in spans if span.name == name]


def run(
    shop: Shop, name: str, number: int, log: str, *pool: str, **env: str
) -> tuple[list[Span], Counter[str]]:
    """Run a worker until its log says so, and return all that has arrived."""
    worker = shop.worker(*(pool or POOLS[0]), **env)
    assert shop.submit(name, str(number), **env) == 0
    worker.wait_for(lambda: len(re.findall(log, worker.log())) > 0)
    assert worker.stop(signal.SIGTERM) == 0
    return shop.receiver.spans(), counts(shop.receiver)


@pytest.mark.parametrize("protocol", ["1", "2"])
@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool[1])
def test_a_batch_is_one_execute_linked_to_its_submits(
    shop: Shop, pool: tuple[str, ...], protocol: str
) -> None:
    spans, counted = run(shop, "good", SIZE, "sum 3", *pool, APP_PROTOCOL=protocol)
    submits = named(spans, "submit good")
    dispatches = named(spans, "dispatch good")
    (execute,) = named(spans, "execute good")
    (user,) = named(spans, "user")
    assert {link.span_id for link in execute.links} == {span.span_id for span in submits}
    assert {span.parent_id for span in dispatches} == {span.span_id for span in submits}
    assert (len(submits), len(dispatches), len(execute.links)) == (SIZE, SIZE, SIZE)
    assert (execute.parent_id, user.parent_id) == ("", execute.span_id)
    assert execute.attributes["messaging.batch.message_count"] == SIZE
    assert execute.attributes["messaging.destination.name"] == "celery"
    assert execute.attributes["task.status"] == "success"
    assert counted == Counter(
        {
            "task.submitted": SIZE,
            "task.dispatched": SIZE,
            "task.completed success": SIZE,
            "task.duration success": SIZE,
            "task.wait": SIZE,
        }
    )


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool[1])
def test_a_batch_that_fails_is_an_error_of_each_of_its_tasks(
    shop: Shop, pool: tuple[str, ...]
) -> None:
    """The pool is not told: the error stays where the batch ran."""
    spans, counted = run(shop, "bad", 2 * SIZE, "(?s)raise LookupError.*raise LookupError", *pool)
    executes = named(spans, "execute bad")
    assert [span.attributes["error.type"] for span in executes] == ["LookupError"] * 2
    assert {len(span.links) for span in executes} == {SIZE}
    assert counted["task.completed failure"] == counted["task.dispatched"] == 2 * SIZE


@pytest.mark.parametrize(("name", "ended"), [("die", "completed failure"), ("late", "retried")])
def test_a_batch_whose_child_is_killed_is_reported_once(shop: Shop, name: str, ended: str) -> None:
    worker = shop.worker(*POOLS[0])
    assert shop.submit(name, str(SIZE)) == 0
    shop.spans(lambda spans: bool(named(spans, f"execute {name}")))
    assert worker.stop(signal.SIGTERM) == 0
    (execute,) = named(shop.receiver.spans(), f"execute {name}")
    assert len(execute.links) == SIZE
    assert execute.attributes["error.type"] == "billiard.exceptions.WorkerLostError"
    counted = counts(shop.receiver)
    assert (counted["task.dispatched"], counted[f"task.{ended}"]) == (SIZE, SIZE)


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool[1])
@pytest.mark.parametrize(("name", "status"), [("traced", "success"), ("failing", "failure")])
def test_plain_callbacks_do_not_hide_a_task(
    shop: Shop, pool: tuple[str, ...], name: str, status: str
) -> None:
    spans, counted = run(shop, name, 1, rf"{name} <class 'tuple'>", *pool)
    above = f"submit {name} > dispatch {name} > execute {name}"
    path = paths(spans, lambda span: span.name)
    assert above in path.values()
    assert (f"{above} > user" in path.values()) == (name == "traced")
    assert counted[f"task.completed {status}"] == counted["task.dispatched"] == 1


@pytest.mark.parametrize("pool", POOLS, ids=lambda pool: pool[1])
def test_what_others_run_is_counted(shop: Shop, pool: tuple[str, ...]) -> None:
    """Nothing is known of how: it has no execute."""
    spans, counted = run(shop, "unknown", 1, "unknown <class 'str'>", *pool)
    assert Counter(span.name for span in spans) == {"submit unknown": 1, "dispatch unknown": 1}
    assert counted["task.completed success"] == counted["task.dispatched"] == 1
