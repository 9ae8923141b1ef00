"""Celery's ways to publish: each in one trace, below the span that published, nothing changed."""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_queue_bridge.otlp import Receiver, Span
from tests.brokers.shop import SECRET, Shop, paths
from tests.servers import Processes, RabbitMQ, Valkey

APP = "tests.brokers.celery_publishing_app"
KINDS = {"submit": "PRODUCER", "dispatch": "CLIENT", "execute": "CONSUMER"}
PASSWORD = "hunter2"  # noqa: S105


def task(name: str, *below: str, status: str = "") -> list[str]:
    """Return the paths of a task that a worker ran, and of all that was submitted inside it."""
    ran = f"submit {name} > dispatch {name} > execute {name}"
    return [
        f"submit {name}",
        f"submit {name} > dispatch {name}",
        ran + status,
        *(f"{ran}{status} > {path}" for path in below),
    ]


EAGER_A = ["submit a", "submit a > execute a"]

WAYS = {
    "delay": task("a"),
    "apply_async": task("a"),
    "without result": task("a"),
    "send_task": task("a"),
    "chain": task("a", *task("b", *task("c"))),
    "group": [*task("a"), *task("b")],
    "chord": [*task("a"), *task("b", *task("c"))],
    "link": task("a", *task("b")),
    "link_error": task("fails", *task("errback"), status=" ERROR"),
    "replace": task("replaces", *task("a")),
    "apply": EAGER_A,
    "always eager": EAGER_A,
    "retry in apply": [  # Celery applies it again after the attempt, not inside it
        "submit retries",
        "submit retries > execute retries",
        "submit retries > submit retries",
        "submit retries > submit retries > execute retries",
    ],
    "nested in apply": [
        "submit nests",
        "submit nests > execute nests",
        *(f"submit nests > execute nests > {path}" for path in task("b")),
    ],
    "stamps": task("tells", *task("tells", *task("tells"))),
    "another app": [*task("a"), *task("b")],
}
CONFIRMED = {
    "delay": task("a"),
    "routed to a queue": task("a"),
    "retried from a queue": task("retries", *task("retries")),
    "routed by a key": task("a"),
}


class Published:
    def __init__(self, shop: Shop, expected: dict[str, list[str]]) -> None:
        self.shop = shop
        self.expected = expected
        self.worker = shop.worker("-P", "prefork", "-c", "1", "-Q", "celery,mail")
        assert shop.submit(*expected) == 0
        self.spans = shop.spans(self._all_arrived)
        self.worker.stop(signal.SIGTERM)
        self.spans = shop.receiver.spans()

    def _all_arrived(self, spans: list[Span]) -> bool:
        return len(spans) >= sum(len(below) + 1 for below in self.expected.values())

    def of(self, way: str) -> list[Span]:
        (root,) = (span for span in self.spans if span.name == way)
        trace = [span for span in self.spans if span.trace_id == root.trace_id]
        return sorted((span for span in trace if span is not root), key=lambda span: span.start)

    def paths(self, way: str) -> list[str]:
        path = paths(self.spans, lambda span: f"{span.name} {span.status}".removesuffix(" UNSET"))
        return sorted(path[span.span_id].removeprefix(f"{way} > ") for span in self.of(way))


@pytest.fixture(scope="module")
def module_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    processes = Processes(tmp_path_factory.mktemp("processes"))
    yield processes
    processes.stop(grace=0)


@pytest.fixture(scope="module")
def published(
    valkey: Valkey, module_processes: Processes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    """Publish in every way, on a Valkey that asks for a password."""
    with valkey.client() as client:
        client.flushall()
        client.acl_setuser(
            "shop",
            enabled=True,
            passwords=[f"+{PASSWORD}"],
            keys="*",
            channels="*",
            commands=["+@all"],
        )
    broker = valkey.url.replace("://", f"://shop:{PASSWORD}@")
    with Receiver() as receiver:
        folder = tmp_path_factory.mktemp("published")
        yield Published(Shop(broker, receiver, module_processes, folder, APP), WAYS)


@pytest.fixture(scope="module")
def confirmed(
    rabbitmq: RabbitMQ, module_processes: Processes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Published]:
    """Publish in some ways, on a RabbitMQ that confirms each message."""
    with Receiver() as receiver:
        folder = tmp_path_factory.mktemp("confirmed")
        shop = Shop(rabbitmq.vhost(), receiver, module_processes, folder, APP)
        yield Published(shop, CONFIRMED)


@pytest.mark.parametrize("way", WAYS)
def test_a_way_to_publish_is_one_trace(published: Published, way: str) -> None:
    assert published.paths(way) == sorted(WAYS[way])
    for span in published.of(way):
        assert span.kind == KINDS[span.attributes["messaging.operation.name"]]
        assert span.attributes["messaging.destination.name"] == "celery"


@pytest.mark.parametrize("way", CONFIRMED)
def test_the_destination_is_the_queue_whatever_the_route(confirmed: Published, way: str) -> None:
    assert confirmed.paths(way) == sorted(CONFIRMED[way])
    destinations = {span.attributes["messaging.destination.name"] for span in confirmed.of(way)}
    assert destinations == {"celery" if way == "delay" else "mail"}


def test_an_eager_run_is_counted_where_it_runs(published: Published) -> None:
    counts = {
        (point.metric, point.attributes.get("task.status")): point.value or point.count
        for point in published.shop.receiver.latest()
        if point.attributes.get("task.name") == "retries"
    }
    assert counts == {
        ("task.submitted", None): 1,
        ("task.retried", None): 1,
        ("task.completed", "success"): 1,
        ("task.duration", "retry"): 1,
        ("task.duration", "success"): 1,
    }


def test_a_priority_is_on_every_span(published: Published) -> None:
    assert [span.attributes["task.priority"] for span in published.of("apply_async")] == [3, 3, 3]


def test_headers_and_stamps_of_the_user_arrive_and_nothing_piles_up(published: Published) -> None:
    attempts = published.shop.notes()
    assert [retries for retries, *_ in attempts] == [0, 1, 2]
    (_, first, *_), *_ = attempts
    for _, headers, stamped_headers, stamps in attempts:
        assert headers["x-mine"] == "1"
        assert headers["baggage"] == "who=me"
        assert (stamped_headers, stamps) == (["mine"], {"mine": "x"})
        assert headers.keys() == first.keys()


def test_neither_arguments_nor_results_nor_passwords_leave(published: Published) -> None:
    raw = published.shop.receiver.raw()
    assert b"submit" in raw
    assert SECRET.encode() not in raw
    assert PASSWORD.encode() not in raw


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_failed_publish_tells_no_password(
    scheme: str, receiver: Receiver, processes: Processes, tmp_path: Path
) -> None:
    shop = Shop(f"{scheme}://shop:{PASSWORD}@127.0.0.1:1//", receiver, processes, tmp_path, APP)
    assert shop.submit("without result") != 0
    assert [span.status for span in shop.spans(lambda spans: len(spans) == 2)] == ["ERROR"] * 2
    assert PASSWORD.encode() not in receiver.raw()
    assert SECRET.encode() not in receiver.raw()


def test_an_app_that_published_before_it_was_instrumented(
    redis_url: str, receiver: Receiver, processes: Processes, tmp_path: Path
) -> None:
    shop = Shop(redis_url, receiver, processes, tmp_path, APP)
    assert shop.submit("late", OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="*") == 0
    names = [span.name for span in shop.spans(lambda spans: len(spans) == 2)]
    assert names == ["late", "submit b"]


def test_every_run_of_beat_is_a_trace_of_its_own(
    redis_url: str, receiver: Receiver, processes: Processes, tmp_path: Path
) -> None:
    shop = Shop(redis_url, receiver, processes, tmp_path, APP)
    shop.worker("-P", "solo")
    shop.beat(tmp_path)

    def complete(spans: list[Span]) -> list[str]:
        sizes = Counter(span.trace_id for span in spans)
        return [trace for trace, size in sizes.items() if size >= len(task("tick"))]

    spans = shop.spans(lambda spans: len(complete(spans)) >= 2)
    path = paths(spans, lambda span: span.name)
    for trace in complete(spans):
        assert sorted(path[s.span_id] for s in spans if s.trace_id == trace) == sorted(task("tick"))
    schedules = {span.attributes.get("task.schedule") for span in spans if " tick" in span.name}
    assert schedules == {"every second"}
