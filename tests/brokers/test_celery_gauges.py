"""The gauges of a worker on a real broker: how many slots it has, and how many tasks wait."""

import json
import os
import signal
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import kombu
import pytest
import redis

from otel_queue_bridge.otlp import Receiver
from tests.brokers.forks import Forking, of_metric
from tests.servers import CLOCK, LIMIT, Process, Processes, Valkey, wait_until

WORKERS = "task.workers.active"
BUSY = "task.workers.busy"
DEPTH = "task.queue.depth"
DELAYED = "task.queue.delayed"
OLDEST = "task.oldest"
GREEN = {"gevent": {"OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH": "patch_all"}}
ONE_AT_A_TIME = {"worker_prefetch_multiplier": 1, "task_acks_late": True}
"""A busy worker holds the tasks it runs and no other."""
PRIORITIES = {
    "broker_transport_options": {
        "priority_steps": [0, 3, 6, 9],
        "queue_order_strategy": "priority",
        "sep": ":",
    },
}


class Watched(Forking):
    """Reads the latest gauges of a worker."""

    def last(self, metric: str) -> dict[str, float]:
        """Return the values of the last export that had this metric, by queue."""
        points = of_metric(self.receiver.points(), metric)
        latest = max((point.time for point in points), default=0)
        return {
            point.attributes.get("messaging.destination.name", ""): point.value
            for point in points
            if point.time == latest
        }

    def wait_for(self, metric: str, expected: dict[str, float], timeout: float = LIMIT) -> None:
        try:
            wait_until(lambda: self.last(metric) == expected, timeout)
        except TimeoutError:
            assert self.last(metric) == expected
            raise

    def exports(self, metric: str = WORKERS) -> int:
        return len(of_metric(self.receiver.points(), metric))

    def wait_for_exports(self, number: int, metric: str = WORKERS) -> None:
        """Wait for this many more exports: the last of them shows what has been true since now."""
        seen = self.exports(metric)
        wait_until(lambda: self.exports(metric) >= seen + number, what=f"{number} exports")

    def block(self, slots: int, queue: str = "celery") -> None:
        """Give every slot of the worker a task that waits for the test."""
        self.send({"name": "gate", "queue": queue, "count": slots})
        wait_until(lambda: len(self.ran("gate")) == slots, what="all slots are busy")


@pytest.fixture(params=["redis_url", "amqp_url"])
def shop(
    request: pytest.FixtureRequest, receiver: Receiver, processes: Processes, tmp_path: Path
) -> Watched:
    return Watched(request.getfixturevalue(request.param), receiver, processes, tmp_path)


@pytest.fixture
def redis_shop(redis_url: str, receiver: Receiver, processes: Processes, tmp_path: Path) -> Watched:
    return Watched(redis_url, receiver, processes, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "slots"),
    [
        pytest.param(("-P", "prefork", "-c", "3"), 3, id="prefork"),
        pytest.param(("-P", "threads", "-c", "4"), 4, id="threads"),
        pytest.param(("-P", "solo"), 1, id="solo"),
    ],
)
def test_as_many_workers_as_tasks_can_run_at_once(
    redis_shop: Watched, arguments: tuple[str, ...], slots: int
) -> None:
    shop = redis_shop
    worker = shop.worker(*arguments)
    shop.wait_for(WORKERS, {"": slots})
    shop.wait_for_exports(3)
    points = of_metric(shop.receiver.points(), WORKERS)
    assert {(point.kind, point.monotonic, point.unit) for point in points} == {
        ("sum", False, "{worker}")
    }
    assert {json.dumps(point.attributes) for point in points} == {'{"messaging.system": "celery"}'}
    assert len({point.resource["service.instance.id"] for point in points}) == 1
    assert worker.stop(signal.SIGTERM) == 0
    ended = of_metric(shop.receiver.points(), WORKERS)
    values = [point.value for point in ended]
    assert values[-1] == 0
    assert values == sorted(values, reverse=True)
    assert {*values} == {slots, 0}, "also while it ends"
    assert len({point.resource["service.instance.id"] for point in ended}) == 1


def test_two_workers_add_up(redis_shop: Watched) -> None:
    shop = redis_shop
    shop.worker("-P", "threads", "-c", "2", "-n", "one@localhost")
    shop.worker("-P", "threads", "-c", "3", "-n", "two@localhost")

    def total() -> float:
        return sum(point.value for point in of_metric(shop.receiver.latest(), WORKERS))

    wait_until(lambda: total() == 5)


def test_a_pool_that_grows_is_read_again(redis_shop: Watched) -> None:
    shop = redis_shop
    shop.worker("-P", "prefork", "--autoscale", "3,1")
    shop.wait_for(WORKERS, {"": 1})
    shop.send({"name": "gate", "count": 3})
    shop.wait_for(WORKERS, {"": 3})
    shop.open_gate()


def test_what_waits_at_the_broker_is_depth_and_what_the_worker_holds_is_not(
    shop: Watched,
) -> None:
    shop.worker(*("-P", "threads", "-c", "2", "-Q", "a,b"), APP_CONF=json.dumps(ONE_AT_A_TIME))
    shop.wait_for(DEPTH, {"a": 0, "b": 0})
    shop.block(2, "a")
    shop.wait_for_exports(2)
    shop.wait_for(DEPTH, {"a": 0, "b": 0})
    shop.send(
        {"name": "ok", "queue": "a", "count": 3},
        {"name": "ok", "queue": "b", "count": 5},
        {"name": "ok", "queue": "c", "count": 7},  # nobody consumes that queue
    )
    shop.wait_for(DEPTH, {"a": 3, "b": 5})
    (point, *_) = of_metric(shop.receiver.latest(), DEPTH)
    assert (point.kind, point.unit) == ("gauge", "{task}")
    assert point.attributes.keys() == {"messaging.system", "messaging.destination.name"}
    shop.open_gate()
    shop.wait_for(DEPTH, {"a": 0, "b": 0})
    assert len(shop.ran("ok")) == 8


def test_prefetched_messages_are_not_depth(redis_shop: Watched) -> None:
    shop = redis_shop
    conf = {"worker_prefetch_multiplier": 3}
    shop.worker("-P", "threads", "-c", "1", APP_CONF=json.dumps(conf))
    shop.block(1)
    shop.send({"name": "ok", "count": 6})
    # The task that runs was acknowledged when it began; the worker holds three more.
    shop.wait_for(DEPTH, {"celery": 3})
    shop.open_gate()
    shop.wait_for(DEPTH, {"celery": 0})


def test_four_messages_over_three_priorities_are_four(redis_shop: Watched) -> None:
    shop = redis_shop
    conf = json.dumps(ONE_AT_A_TIME | PRIORITIES)
    shop.worker("-P", "threads", "-c", "1", APP_CONF=conf)
    shop.block(1)
    shop.env["APP_CONF"] = conf
    shop.send(*({"name": "ok", "priority": priority} for priority in (0, 3, 9, 9)))
    shop.wait_for(DEPTH, {"celery": 4})
    shop.open_gate()
    shop.wait_for(DEPTH, {"celery": 0})
    assert len(shop.ran("ok")) == 4


def test_four_over_three_priorities_of_one_queue_on_rabbitmq(
    amqp_url: str, receiver: Receiver, processes: Processes, tmp_path: Path
) -> None:
    shop = Watched(amqp_url, receiver, processes, tmp_path)
    conf = json.dumps(ONE_AT_A_TIME | {"task_queue_max_priority": 10})
    shop.env["APP_CONF"] = conf
    shop.worker("-P", "threads", "-c", "1")
    shop.block(1)
    shop.send(*({"name": "ok", "priority": priority} for priority in (0, 3, 9, 9)))
    shop.wait_for(DEPTH, {"celery": 4})
    shop.open_gate()


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent", "eventlet"])
def test_what_a_worker_holds_for_its_eta_is_delayed_and_not_depth(
    redis_shop: Watched, pool: str
) -> None:
    shop = redis_shop
    shop.worker("-P", pool, "-c", "1", "-Q", "a,b", **GREEN.get(pool, {}))
    shop.wait_for(DELAYED, {"a": 0, "b": 0})
    shop.send(
        {"name": "ok", "queue": "a", "count": 3, "countdown": 600},
        {"name": "ok", "queue": "b", "countdown": 600},
        {"name": "ok", "queue": "b", "countdown": 2},
    )
    wait_until(lambda: shop.ran("ok"))
    shop.wait_for(DELAYED, {"a": 3, "b": 1})
    shop.wait_for(DEPTH, {"a": 0, "b": 0})


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
def test_places_that_run_a_task_are_busy(redis_shop: Watched, pool: str) -> None:
    shop = redis_shop
    slots = 1 if pool == "solo" else 2
    worker = shop.worker("-P", pool, "-c", str(slots), **GREEN.get(pool, {}))
    shop.wait_for(BUSY, {"": 0})
    shop.block(slots)
    shop.send({"name": "ok", "count": 2 * slots})
    shop.wait_for(BUSY, {"": slots})
    shop.open_gate()
    wait_until(lambda: len(shop.ran("ok")) == 2 * slots)
    shop.wait_for(BUSY, {"": 0})
    assert worker.stop(signal.SIGTERM) == 0
    points = of_metric(shop.receiver.points(), BUSY)
    assert {(point.kind, point.monotonic, point.unit) for point in points} == {
        ("sum", False, "{worker}")
    }
    assert (points[-1].value, max(point.value for point in points)) == (0, slots)
    assert shop.last(WORKERS) == {"": 0}


@pytest.mark.parametrize("loop", [True, False], ids=["event loop", "no event loop"])
def test_a_place_whose_child_was_killed_is_not_busy(
    redis_shop: Watched, tmp_path: Path, *, loop: bool
) -> None:
    shop, conf = redis_shop, {"worker_lost_wait": 600}
    if not loop:
        shop.env["APP_BROKER"] = "filesystem://"
        folder = tmp_path / "queues"
        folder.mkdir()
        folders = dict.fromkeys(
            ("data_folder_in", "data_folder_out", "control_folder"), str(folder)
        )
        conf["broker_transport_options"] = folders
    shop.env["APP_CONF"] = json.dumps(conf)
    shop.worker("-P", "prefork", "-c", "3")
    shop.block(2)
    shop.wait_for(BUSY, {"": 2})
    killed, left = (pid for kind, *_, pid in shop.notes() if kind == "gate")
    os.kill(killed, signal.SIGKILL)
    shop.wait_for(BUSY, {"": 1})
    shop.wait_for_exports(3)
    assert (shop.last(BUSY), shop.last(WORKERS)) == ({"": 1}, {"": 3})
    os.kill(left, signal.SIGKILL)
    shop.wait_for(BUSY, {"": 0})


def test_the_age_is_that_of_the_oldest_message_of_all_priorities(redis_shop: Watched) -> None:
    shop = redis_shop
    shop.env["APP_CONF"] = json.dumps(ONE_AT_A_TIME | PRIORITIES)
    shop.worker("-P", "threads", "-c", "1")
    shop.wait_for(OLDEST, {"celery": 0})
    shop.block(1)
    began = time.time()
    shop.submit("ok", priority=9)
    shop.submit("ok", priority=0)  # it is served first, and is not the oldest
    shop.wait_for(DEPTH, {"celery": 2})
    shop.wait_for_exports(3)
    points = of_metric(shop.receiver.latest(), OLDEST)
    (submit, _) = sorted(span.start for span in shop.receiver.spans() if span.name == "submit ok")
    (since,) = {point.time / 1e9 - point.value for point in points}
    assert began < submit / 1e9 - CLOCK < since
    assert since < submit / 1e9 + 5
    shop.open_gate()
    shop.wait_for(OLDEST, {"celery": 0})


def test_a_message_that_does_not_tell_its_time_has_no_age(redis_shop: Watched) -> None:
    shop = redis_shop
    shop.worker("-P", "threads", "-c", "1", APP_CONF=json.dumps(ONE_AT_A_TIME))
    shop.wait_for(OLDEST, {"celery": 0})
    shop.block(1)
    shop.send({"name": "ok"})
    shop.wait_for(DEPTH, {"celery": 1})
    shop.wait_for_exports(3)
    with redis.Redis.from_url(shop.env["APP_BROKER"]) as client:
        for junk in (b"\x80", b"[]", b'{"headers": []}'):
            client.rpush("celery", junk)
            shop.wait_for(DEPTH, {"celery": 2})
            seen = shop.exports(OLDEST)
            shop.wait_for_exports(3)
            assert (shop.exports(OLDEST), shop.last(DEPTH)) == (seen, {"celery": 2})
            client.rpop("celery")
            shop.wait_for(DEPTH, {"celery": 1})
    shop.open_gate()
    shop.wait_for(OLDEST, {"celery": 0})


@pytest.mark.skipif(version("celery") < "5.5", reason="this Celery delays in the worker only")
def test_what_rabbitmq_itself_delays(
    amqp_url: str, receiver: Receiver, processes: Processes, tmp_path: Path
) -> None:
    shop = Watched(amqp_url, receiver, processes, tmp_path)
    shop.env["APP_CONF"] = json.dumps(
        {
            "task_default_queue_type": "quorum",
            "task_default_exchange_type": "topic",
            "broker_transport_options": {"confirm_publish": True},
        }
    )
    shop.worker("-P", "threads", "-c", "1")
    shop.wait_for(DELAYED, {"celery": 0, "celery_delayed": 0})
    shop.send({"name": "ok", "count": 3, "countdown": 600}, {"name": "ok", "countdown": 5})
    wait_until(lambda: shop.ran("ok"))
    shop.wait_for(DELAYED, {"celery": 0, "celery_delayed": 3})
    assert shop.last(DEPTH) == {"celery": 0}
    assert "no reading of" not in processes.started[-2].log()


def test_a_queue_that_is_gone_is_empty(shop: Watched) -> None:
    worker = shop.worker(
        *("-P", "threads", "-c", "1", "-Q", "a,b"), APP_CONF=json.dumps(ONE_AT_A_TIME)
    )
    shop.block(1, "a")
    shop.send({"name": "ok", "queue": "b", "count": 2})
    shop.wait_for(DEPTH, {"a": 0, "b": 2})
    delete(shop.env["APP_BROKER"], "b")
    shop.wait_for(DEPTH, {"a": 0, "b": 0})
    shop.wait_for_exports(3)
    # RabbitMQ cancels the consumer, so Celery connects again: it gives the task in `a` back, and
    # takes it once more.
    shop.wait_for(DEPTH, {"a": 0, "b": 0})
    assert "no reading" not in worker.log()


def delete(broker: str, queue: str) -> None:
    if broker.startswith("redis"):
        with redis.Redis.from_url(broker) as client:
            assert client.delete(queue) == 1
    else:
        with kombu.Connection(broker) as connection, connection.channel() as channel:
            channel.queue_delete(queue)


def test_depth_can_be_switched_off(redis_shop: Watched) -> None:
    shop = redis_shop
    shop.worker("-P", "solo", OTEL_PYTHON_QUEUE_BRIDGE_QUEUE_DEPTH="false")
    shop.wait_for_exports(3)
    for metric in (DEPTH, DELAYED, OLDEST):
        assert of_metric(shop.receiver.points(), metric) == []
    assert shop.last(BUSY) == {"": 0}


def test_a_caller_reads_no_depth(redis_shop: Watched) -> None:
    shop = redis_shop
    shop.submit("ok", 2)
    assert shop.counts()["task.submitted", "ok"] == 2
    assert of_metric(shop.receiver.points(), DEPTH) == []
    assert of_metric(shop.receiver.points(), WORKERS) == []


class Broker:
    """A Valkey for one test, which may stop it."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.url = Valkey(processes, folder).url
        self.process: Process = processes.started[-1]


@pytest.fixture
def broker(processes: Processes, tmp_path: Path) -> Iterator[Broker]:
    folder = tmp_path / "valkey"
    folder.mkdir()
    broker = Broker(processes, folder)
    yield broker
    broker.process.signal_all(signal.SIGCONT)


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=["hangs", "dies"])
def test_a_broker_that_is_down_gives_no_reading_one_warning_and_stops_no_export(
    broker: Broker,
    receiver: Receiver,
    processes: Processes,
    tmp_path: Path,
    number: int,
) -> None:
    shop = Watched(broker.url, receiver, processes, tmp_path)
    worker = shop.worker("-P", "threads", "-c", "2", "-Q", "a,b")
    shop.wait_for(DEPTH, {"a": 0, "b": 0})
    assert not warnings(worker)
    broker.process.signal_all(number)
    worker.wait_for(lambda: warnings(worker))
    seen = shop.exports(DEPTH)
    shop.wait_for_exports(10)
    assert shop.exports(DEPTH) == seen
    assert shop.last(WORKERS) == {"": 2}
    assert len(warnings(worker)) == 1, warnings(worker)
    if number == signal.SIGSTOP:
        broker.process.signal_all(signal.SIGCONT)
        worker.wait_for(lambda: shop.exports(DEPTH) > seen)
        shop.submit("ok", queue="a")
        worker.wait_for(lambda: shop.ran("ok"))


def warnings(worker: Process) -> list[str]:
    return [line for line in worker.log().splitlines() if "no reading of" in line]


def test_a_worker_whose_broker_is_down_ends_when_told(
    broker: Broker, receiver: Receiver, processes: Processes, tmp_path: Path
) -> None:
    """The last export reads the depth, too, and that must not keep the process alive."""
    shop = Watched(broker.url, receiver, processes, tmp_path)
    worker = shop.worker("-P", "threads", "-c", "1")
    shop.wait_for(DEPTH, {"celery": 0})
    broker.process.signal_all(signal.SIGKILL)
    worker.wait_for(lambda: warnings(worker))
    worker.stop(signal.SIGTERM)
    assert worker.members() == set()


def test_the_brokers_connections_do_not_pile_up(redis_shop: Watched, valkey: Valkey) -> None:
    shop = redis_shop
    shop.worker("-P", "solo", OTEL_METRIC_EXPORT_INTERVAL="50")
    shop.wait_for(DEPTH, {"celery": 0})

    def connections() -> int:
        with valkey.client() as client:
            return len(client.client_list())

    shop.wait_for_exports(5)
    few = connections()
    shop.wait_for_exports(40)
    assert connections() <= few + 2
