"""Dramatiq's brokers and workers in this process, where a test can see all of their state."""

import copy
import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from queue import PriorityQueue
from types import SimpleNamespace
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.broker import MessageProxy
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import CurrentMessage, Middleware, SkipMessage
from dramatiq.results import ResultFailure, Results
from dramatiq.results.backends import StubBackend
from opentelemetry import baggage, trace
from opentelemetry.context import attach, detach, get_current
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import format_span_id, format_trace_id

from otel_queue_bridge import instrument, uninstrument
from otel_queue_bridge.adapter import Reading
from otel_queue_bridge.adapters.dramatiq import attempt, brokers, queues
from tests.brokers.shop import SECRET
from tests.collected import Recorded
from tests.servers import CLOCK, LIMIT, Valkey, wait_until

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"
QUEUE = {"task.queue.depth", "task.queue.delayed", "task.queue.dead", "task.oldest"}


class Telemetry(Recorded):
    def instrument(self, **options: Any) -> None:
        instrument("dramatiq", **self.options, **options)

    @contextmanager
    def caller(self) -> Iterator[trace.Span]:
        with self.tracers.get_tracer("user").start_as_current_span("caller") as span:
            yield span

    def spans(self, name: str = "") -> list[ReadableSpan]:
        return [span for span in super().spans() if span.name.startswith(name)]

    def exported(self) -> bytes:
        """Return the spans as an exporter sends them: if one cannot be encoded, all are lost."""
        return encode_spans(self.spans()).SerializeToString()

    def all_points(self) -> dict[str, list[Any]]:
        return {name: list(metric.data.data_points) for name, metric in self.metrics().items()}

    def counts(self) -> Counter[str]:
        """Return our counters, by name and status."""
        return +Counter(
            {
                " ".join(filter(None, [name, point.attributes.get("task.status")])): point.value
                for name, points in self.all_points().items()
                for point in points
                if name in {"task.submitted", "task.dispatched", "task.retried", "task.completed"}
            }
        )


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    yield telemetry
    uninstrument()


@pytest.fixture
def instrumented(telemetry: Telemetry) -> Telemetry:
    telemetry.instrument()
    return telemetry


@pytest.fixture(params=["stub", "redis_url", "amqp_url"])
def broker(request: pytest.FixtureRequest) -> Iterator[dramatiq.Broker]:
    broker: dramatiq.Broker
    if request.param == "stub":
        broker = StubBroker()
    elif request.param == "redis_url":
        broker = RedisBroker(url=request.getfixturevalue("redis_url"))
    else:
        broker = RabbitmqBroker(url=request.getfixturevalue("amqp_url"))
    broker.add_middleware(CurrentMessage())
    yield broker
    broker.close()


@pytest.fixture
def stub() -> StubBroker:
    broker = StubBroker()
    broker.add_middleware(CurrentMessage())
    return broker


class Ran:
    """An actor that keeps its arguments, and whose body a test can set."""

    def __init__(self, broker: dramatiq.Broker, name: str = "ok", **options: Any) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.options: list[dict[str, Any]] = []
        self.body: Callable[[], object] = lambda: None
        self.actor: Any = dramatiq.actor(
            self._run, actor_name=name, broker=broker, min_backoff=1, **options
        )

    def _run(self, *args: Any, **kwargs: Any) -> object:
        self.calls.append((args, kwargs))
        message: Any = CurrentMessage.get_current_message()
        self.options.append(dict(message.options) if message else {})
        return self.body()

    def fail_once(self) -> None:
        if len(self.calls) == 1:
            raise ValueError


@contextmanager
def working(broker: dramatiq.Broker) -> Iterator[dramatiq.Worker]:
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=2)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def work_until(broker: dramatiq.Broker, condition: Callable[[], object]) -> None:
    with working(broker):
        wait_until(condition)


def received(broker: dramatiq.Broker) -> dramatiq.Message[Any]:
    """Return a message as it has travelled."""
    consumer = broker.consume("default", timeout=100)
    with suppress_instrumentation():
        found = wait_until(lambda: next(consumer))
    consumer.ack(found)
    consumer.close()
    message: dramatiq.Message[Any] = found._message  # noqa: SLF001 - the proxy hides its type
    return message


def parent(span: ReadableSpan) -> str:
    return format_span_id(span.parent.span_id) if span.parent else ""


def own_id(span: ReadableSpan) -> str:
    return format_span_id(span.context.span_id)


def assert_chain(spans: list[ReadableSpan]) -> None:
    """Assert that each span is the child of the one before."""
    for above, below in pairwise(spans):
        assert parent(below) == own_id(above)


# What is sent


def test_sending_leaves_the_message_as_it_was(
    instrumented: Telemetry, broker: dramatiq.Broker
) -> None:
    ran = Ran(broker)
    message = ran.actor.message_with_options(args=([1],), kwargs={"b": 2}, max_retries=0)
    options, before = message.options, copy.deepcopy(message.asdict())
    with instrumented.caller() as caller:
        broker.enqueue(message)
        broker.enqueue(message=message)
    assert message.asdict() == before
    assert message.options is options
    submits = instrumented.spans("submit ok")
    assert [span.parent for span in submits] == [caller.get_span_context()] * 2
    work_until(broker, lambda: len(ran.calls) == 2)
    assert ran.calls == [(([1],), {"b": 2})] * 2
    assert [sent["max_retries"] for sent in ran.options] == [0, 0]
    above = {own_id(span): parent(span) for span in instrumented.spans()}
    dispatches = {parent(span) for span in instrumented.spans("execute")}
    assert {above[dispatch] for dispatch in dispatches} == {own_id(span) for span in submits}
    assert instrumented.counts() == {
        "task.submitted": 2,
        "task.dispatched": 2,
        "task.completed success": 2,
    }


class Noted(dramatiq.Message):
    """A user's message, which wants to know of its copies."""

    copies = 0

    def copy(self, **attributes: Any) -> Any:
        type(self).copies += 1
        return super().copy(**attributes)


def test_a_message_of_the_users_is_copied_by_its_own_method(
    instrumented: Telemetry, stub: StubBroker
) -> None:
    ran = Ran(stub)
    sent = Noted(**ran.actor.message(1).asdict())
    stub.enqueue(sent)
    assert Noted.copies == 1
    work_until(stub, lambda: len(ran.calls) == 1)
    (submit,) = instrumented.spans("submit ok")
    assert [parent(span) for span in instrumented.spans("dispatch ok")] == [own_id(submit)]


def test_a_pipeline_can_run_twice(instrumented: Telemetry, stub: StubBroker) -> None:
    first, second = Ran(stub, "first"), Ran(stub, "second")
    pipeline = dramatiq.pipeline([first.actor.message(), second.actor.message()], broker=stub)
    before = copy.deepcopy([message.asdict() for message in pipeline.messages])
    pipeline.run()
    pipeline.run()
    assert [message.asdict() for message in pipeline.messages] == before
    work_until(stub, lambda: len(second.calls) == 2)
    assert len({span.context.trace_id for span in instrumented.spans()}) == 2
    assert [parent(span) for span in instrumented.spans("submit first")] == ["", ""]
    executes = {own_id(span) for span in instrumented.spans("execute first")}
    assert {parent(span) for span in instrumented.spans("submit second")} == executes


def test_the_carrier_is_all_that_travels_in_addition(
    telemetry: Telemetry, broker: dramatiq.Broker
) -> None:
    ran = Ran(broker)
    ran.actor.send_with_options(args=(1,), max_retries=0)
    without = received(broker)
    telemetry.instrument()
    ran.actor.send_with_options(args=(1,), max_retries=0)
    with_carrier = received(broker)
    (submit,) = telemetry.spans()
    carrier = with_carrier.options.pop("otel")
    trace_id = format_trace_id(submit.context.trace_id)
    assert carrier.pop("traceparent").startswith(f"00-{trace_id}-{own_id(submit)}-")
    assert carrier.keys() == {"otel-submitted"}
    for message in (without, with_carrier):
        message.options.pop("redis_message_id", None)
    own = ("message_id", "message_timestamp")
    assert without.copy(**dict.fromkeys(own)) == with_carrier.copy(**dict.fromkeys(own))


class Stamping(Middleware):
    """Writes into what is sent, as brokers' documentation allows."""

    def before_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
        message.options["stamp"] = "new"
        message.options.pop("draft", None)


@pytest.mark.parametrize("delay", [None, 10], ids=["at once", "delayed"])
def test_what_middleware_writes_reaches_the_caller_as_without_us(
    telemetry: Telemetry, broker: dramatiq.Broker, delay: int | None
) -> None:
    broker.add_middleware(Stamping())
    ran = Ran(broker)
    seen = []
    for instrumented in (False, True):
        if instrumented:
            telemetry.instrument()
        message = ran.actor.message_with_options(stamp="old", draft=True)
        options = message.options
        returned = broker.enqueue(message, delay=delay)
        assert message.options is options
        seen.append((options, returned is message, set(returned.options)))
    assert seen[0] == seen[1]
    assert [span.name for span in telemetry.spans()] == ["submit ok"]


def test_a_dead_letter_equals_what_was_sent(instrumented: Telemetry, stub: StubBroker) -> None:
    stub.add_middleware(FailsBefore())
    ran = Ran(stub)
    message = ran.actor.message()
    returned = stub.enqueue(message)
    work_until(stub, lambda: stub.dead_letters)
    (dead,) = stub.dead_letters
    assert dead._message == message == returned  # noqa: SLF001 - the proxy has no equality
    assert_chain(instrumented.spans())


def test_what_is_decoded_equals_what_was_sent(instrumented: Telemetry, stub: StubBroker) -> None:
    message = Ran(stub).actor.send()
    assert dramatiq.Message.decode(stub.queues["default"].get()) == message


class Watching(Middleware):
    """Keeps the options that a worker's middleware gets to see."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, set[str]]] = []

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.endswith(("_process_message", "_skip_message", "ack", "_delay_message")):
            return found

        def look(broker: Any, message: Any, **_: Any) -> None:
            self.seen.append((name, set(message.options)))

        return look


def test_what_is_received_shows_no_carrier_and_its_trace_goes_on(
    instrumented: Telemetry, broker: dramatiq.Broker
) -> None:
    watching = Watching()
    broker.add_middleware(watching)
    ran = Ran(broker)
    ran.body = ran.fail_once
    ran.actor.send_with_options(delay=10)
    work_until(broker, lambda: [name for name, _ in watching.seen].count("after_ack") == 4)
    assert {name for name, _ in watching.seen} >= {
        "before_delay_message",
        "before_process_message",
        "after_process_message",
        "before_ack",
        "after_ack",
    }
    assert not any("otel" in options for _, options in watching.seen)
    assert not any("otel" in options for options in ran.options)
    names = ["submit ok", "dispatch ok", "execute ok"] * 2
    assert [span.name for span in instrumented.spans()] == names
    assert_chain(instrumented.spans())


class Reencoding(StubBroker):
    """Gives back what a stopping worker has not begun, as brokers without a server do."""

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 100) -> Any:
        consumer = super().consume(queue_name, prefetch, timeout)
        queue = self.queues[queue_name]

        def requeue(messages: Any) -> None:
            for message in messages:
                queue.put(message.encode())

        consumer.requeue = requeue  # type: ignore[method-assign]
        return consumer


@pytest.mark.parametrize("delay", [None, 500], ids=["at once", "delayed"])
def test_what_is_given_back_keeps_its_trace(instrumented: Telemetry, delay: int | None) -> None:
    broker = Reencoding()
    ran = Ran(broker)
    message = ran.actor.send_with_options(delay=delay)
    worker = dramatiq.Worker(broker, worker_timeout=10, worker_threads=0)
    worker.queue_prefetch = worker.delay_prefetch = 1
    worker.start()
    wait_until(broker.queues[message.queue_name].empty)
    worker.stop()
    work_until(broker, lambda: ran.calls)
    (submit,) = instrumented.spans("submit")
    (execute,) = instrumented.spans("execute")
    dispatches = instrumented.spans("dispatch")
    assert {parent(span) for span in dispatches} == {own_id(submit)}
    assert parent(execute) == own_id(dispatches[-1])
    assert len(dispatches) == (1 if delay else 2)


def test_an_uninstrumented_worker_runs_what_was_sent(
    instrumented: Telemetry, broker: dramatiq.Broker
) -> None:
    ran = Ran(broker)
    ran.body = ran.fail_once
    ran.actor.send(1, b=2)
    ran.actor.send_with_options(args=(3,), delay=20)
    uninstrument()
    work_until(broker, lambda: len(ran.calls) == 3)
    assert sorted(ran.calls, key=repr) == sorted([((1,), {"b": 2})] * 2 + [((3,), {})], key=repr)
    assert [span.name for span in instrumented.spans()] == ["submit ok"] * 2


def test_an_uninstrumented_caller_is_served(telemetry: Telemetry, broker: dramatiq.Broker) -> None:
    """The worker's broker was there before us; a delayed message is no submit of the worker."""
    ran = Ran(broker)
    ran.actor.send(1)
    ran.actor.send_with_options(args=(2,), delay=20)
    telemetry.instrument()
    work_until(broker, lambda: len(ran.calls) == 2)
    assert sorted(ran.calls) == [((1,), {}), ((2,), {})]
    assert [span.parent for span in telemetry.spans("dispatch")] == [None, None]
    dispatches = {own_id(span) for span in telemetry.spans("dispatch")}
    assert {parent(span) for span in telemetry.spans("execute")} == dispatches
    assert len(telemetry.spans()) == 4
    assert telemetry.counts() == {"task.dispatched": 2, "task.completed success": 2}


def test_a_delayed_message_keeps_the_trace_of_its_submit(
    instrumented: Telemetry, broker: dramatiq.Broker
) -> None:
    ran = Ran(broker)
    with instrumented.caller():
        ran.actor.send_with_options(delay=200)
    work_until(broker, lambda: ran.calls)
    spans = instrumented.spans()
    assert [span.name for span in spans] == ["caller", "submit ok", "dispatch ok", "execute ok"]
    assert_chain(spans)
    _, submit, dispatch, execute = spans
    elapsed = (execute.start_time - submit.start_time) / 1e9
    assert dispatch.start_time - submit.start_time >= (0.2 - CLOCK) * 1e9
    assert execute.attributes["task.wait"] <= elapsed - 0.2 + CLOCK
    assert instrumented.counts()["task.submitted"] == 1


@pytest.mark.parametrize("kind", ["StubBroker", "Early", "Late"])
def test_a_message_is_dispatched_once_however_often_it_is_delayed(
    instrumented: Telemetry, kind: str
) -> None:
    broker = {"StubBroker": StubBroker, "Early": Early, "Late": late()}[kind]()
    ran = Ran(broker)
    ran.body = ran.fail_once
    ran.actor.send_with_options(delay=10)
    work_until(broker, lambda: len(ran.calls) == 2)
    names = ["submit ok", "dispatch ok", "execute ok"] * 2
    assert [span.name for span in instrumented.spans()] == names
    assert_chain(instrumented.spans())


# Brokers


class Early(StubBroker):
    """Its own enqueue calls its parent's."""

    def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
        return super().enqueue(message, delay=delay)


def late() -> type[StubBroker]:
    class Late(Early):
        def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
            return super().enqueue(message.copy(options={"mine": 1}), delay=delay)

    return Late


def test_a_broker_that_calls_its_parents_is_one_submit(instrumented: Telemetry) -> None:
    for kind in (Early, late()):
        broker = kind()
        Ran(broker).actor.send()
        assert received(broker).options["otel"]
        (submit,) = instrumented.spans()
        assert submit.name == "submit ok"
        instrumented.exporter.clear()
    assert instrumented.counts() == {"task.submitted": 2}


def test_a_broker_whose_class_comes_later(instrumented: Telemetry) -> None:
    class Own(StubBroker):
        def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
            self.queues[message.queue_name].put(message.encode())
            return message

    broker = Own()
    ran = Ran(broker)
    ran.actor.send()
    work_until(broker, lambda: ran.calls)
    names = ["submit ok", "dispatch ok", "execute ok"]
    assert [span.name for span in instrumented.spans()] == names
    assert_chain(instrumented.spans())


def test_a_broker_that_was_there_first(telemetry: Telemetry) -> None:
    broker = late()()
    ran = Ran(broker)
    telemetry.instrument()
    ran.actor.send()
    assert [span.name for span in telemetry.spans()] == ["submit ok"]


def test_a_broker_that_passes_on_and_one_that_sends_more(
    instrumented: Telemetry, stub: StubBroker
) -> None:
    audit = Ran(stub, "audit").actor

    class Router(StubBroker):
        def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
            audit.send()
            return stub.enqueue(message, delay=delay)

    Ran(stub)
    Ran(Router()).actor.send()
    submit, inner = instrumented.spans()
    assert [submit.name, inner.name] == ["submit ok", "submit audit"]
    assert_chain([submit, inner])
    assert [span.name for span in instrumented.spans()] == ["submit ok", "submit audit"]


class Choosy(StubBroker):
    """Takes each message once; what it drops, it returns."""

    def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
        if message.kwargs.get("drop") or message.options.get("retries"):
            return message
        return super().enqueue(message, delay=delay)


def test_what_a_broker_drops_is_not_submitted(instrumented: Telemetry) -> None:
    broker = Choosy()
    ran = Ran(broker)
    ran.body = ran.fail_once
    ran.actor.send(drop=True)
    ran.actor.send()
    work_until(broker, lambda: ran.calls)
    assert instrumented.counts() == {
        "task.submitted": 1,
        "task.dispatched": 1,
        "task.completed failure": 1,
    }


class Silent(StubBroker):
    """Takes all, and emits nothing."""

    def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
        self.queues[message.queue_name].put(message.encode())
        return message


def test_a_broker_without_signals_drops_nothing(instrumented: Telemetry) -> None:
    Ran(Silent()).actor.send()
    assert instrumented.counts() == {"task.submitted": 1}


def test_every_class_is_as_it_was_afterwards(telemetry: Telemetry) -> None:
    kinds = (Early, StubBroker, RedisBroker, RabbitmqBroker, late())
    before = [vars(kind)["enqueue"] for kind in kinds]
    telemetry.instrument()
    kinds[-1]()
    assert not any(vars(kind)["enqueue"] is was for kind, was in zip(kinds, before, strict=True))
    uninstrument()
    assert [vars(kind)["enqueue"] for kind in kinds] == before


SDK_LAST = """
import json
from otel_queue_bridge import instrument
instrument("dramatiq")
import dramatiq
from dramatiq.brokers.stub import StubBroker
broker = StubBroker()
dramatiq.set_broker(broker)

@dramatiq.actor
def ok():
    pass

def sent():
    ok.send()
    return list(json.loads(broker.queues["default"].get())["options"])

before = sent()

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
trace.set_tracer_provider(TracerProvider())
print(json.dumps([before, sent()]))
"""


def test_an_sdk_that_comes_last() -> None:
    command = [sys.executable, "-c", SDK_LAST]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT)
    assert json.loads(answer.stdout) == [[], ["otel"]]
    assert answer.stderr == ""


def test_the_server_is_told_and_no_credentials(instrumented: Telemetry) -> None:
    for broker in (
        RedisBroker(url=f"redis://alice:{SECRET}@127.0.0.1:1/0"),
        RabbitmqBroker(url=f"amqp://alice:{SECRET}@127.0.0.1:1/"),
    ):
        with pytest.raises(Exception, match=r"refused|Connection"):
            Ran(broker).actor.send()
    for span in instrumented.spans():
        assert span.attributes["server.address"] == "127.0.0.1"
        assert span.attributes["server.port"] == 1
        assert span.attributes["error.type"]
    assert len(instrumented.spans()) == 2
    assert instrumented.counts() == {}
    assert SECRET.encode() not in instrumented.exported()
    assert b"alice" not in instrumented.exported()


class Postgres(StubBroker):
    """A broker that nobody knows: it says itself where its server is, and what waits there."""

    otel_server = ("db.example", 5432)

    def otel_queue_depths(self, queues: list[str]) -> dict[str, Any]:
        return {**dict.fromkeys(queues, 7), "of_others": {"ready": 1, "delayed": 2, "oldest": 3.5}}


class Sqs(Postgres):
    """Has no port, and knows its server only when it is made."""

    def __init__(self, region: str) -> None:
        super().__init__()
        self.region = region

    def otel_server(self) -> tuple[str, None]:  # type: ignore[override]
        return f"sqs.{self.region}.example", None


class Nowhere(Postgres):
    otel_server = None


class Wrong(Postgres):
    otel_server = "db.example:5432"

    def otel_queue_depths(self, queues: list[str]) -> dict[str, int]:
        raise ConnectionError


@pytest.mark.parametrize(
    ("broker", "address", "port"),
    [
        (Postgres(), "db.example", 5432),
        (Sqs("eu"), "sqs.eu.example", None),
        (Nowhere(), None, None),
    ],
    ids=["an attribute", "a method", "no one server"],
)
def test_a_broker_says_itself_where_it_is_and_what_waits(
    instrumented: Telemetry, broker: Any, address: str | None, port: int | None
) -> None:
    ran = Ran(broker)
    ran.actor.send()
    with working(broker):
        wait_until(lambda: ran.calls)
        found = {
            metric: {
                point.attributes["messaging.destination.name"]: point.value for point in points
            }
            for metric, points in instrumented.all_points().items()
            if metric in QUEUE
        }
    assert found == {
        "task.queue.depth": {"default": 7, "of_others": 1},
        "task.queue.delayed": {"of_others": 2},
        "task.oldest": {"of_others": 3.5},
    }
    assert len(instrumented.spans()) == 3
    for span in instrumented.spans():
        assert span.attributes.get("server.address") == address
        assert span.attributes.get("server.port") == port


def test_a_broker_that_says_it_wrongly_is_one_warning_each(
    instrumented: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Wrong()
    ran = Ran(broker)
    ran.actor.send()
    ran.actor.send()
    with working(broker):
        wait_until(lambda: len(ran.calls) == 2)
        assert "task.queue.depth" not in instrumented.all_points()
        instrumented.all_points()
    assert len(instrumented.spans("execute")) == 2
    assert len(ours(caplog)) == 2


class Generating(StubBroker):
    """Makes an attribute of any name that it is asked for."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def test_reading_a_broker_leaves_it_as_it_was(instrumented: Telemetry) -> None:
    broker = Generating()
    ran = Ran(broker)
    broker.declare_queue("of others")
    ran.actor.send()
    with working(broker) as worker:
        wait_until(lambda: ran.calls)
        broker.dead_letters_by_queue.clear()
        instrumented.all_points()
        assert worker.consumers.keys() >= {"default", "of others"}
        assert broker.dead_letters_by_queue == {}
    assert len(instrumented.spans()) == 3


def test_reading_the_depth_takes_no_connection_of_the_workers(
    instrumented: Telemetry, redis_url: str
) -> None:
    pool = redis.ConnectionPool.from_url(redis_url, max_connections=1)
    broker = RedisBroker(client=redis.Redis(connection_pool=pool))
    Ran(broker).actor.send()
    only = pool.get_connection()
    assert waiting(broker)["default"][:-1] == (1, "default", None, None, 0, 0)
    pool.release(only)
    assert pool.get_connection() is only


class Cluster:
    """A client of many servers, as far as Dramatiq uses it."""

    def register_script(self, _: object) -> Callable[..., int]:
        return lambda **_: 8000


def test_a_broker_of_no_one_server(instrumented: Telemetry) -> None:
    assert (
        brokers.server(RabbitmqBroker(url=["amqp://127.0.0.1:1/", "amqp://127.0.0.1:2/"])) is None
    )
    Ran(RedisBroker(client=Cluster())).actor.send()
    with pytest.raises(redis.ConnectionError):
        Ran(RedisBroker(unix_socket_path="/nowhere", retry=None)).actor.send()
    assert [span.name for span in instrumented.spans()] == ["submit ok"] * 2
    assert not any("server.address" in span.attributes for span in instrumented.spans())


# How a run ends


def test_without_the_middleware_for_retries_an_exception_is_the_end(
    instrumented: Telemetry,
) -> None:
    broker = StubBroker(middleware=[])
    calls: list[int] = []

    @dramatiq.actor(broker=broker)
    def ok() -> None:
        calls.append(1)
        raise ValueError

    ok.send()
    work_until(broker, lambda: calls)
    (execute,) = instrumented.spans("execute")
    assert execute.attributes["task.status"] == "failure"
    assert execute.attributes["error.type"] == "ValueError"
    assert not execute.status.is_ok
    assert instrumented.counts()["task.completed failure"] == 1


class Down(StubBroker):
    """Refuses to take a message a second time."""

    def enqueue(self, message: Any, *, delay: int | None = None) -> Any:
        if message.options.get("retries"):
            raise ConnectionError
        return super().enqueue(message, delay=delay)


def test_a_retry_that_could_not_be_sent_is_none(instrumented: Telemetry) -> None:
    broker = Down()
    ran = Ran(broker)
    ran.body = ran.fail_once
    ran.actor.send()
    work_until(broker, lambda: ran.calls)
    (execute,) = instrumented.spans("execute")
    assert execute.attributes["task.status"] == "failure"
    assert instrumented.spans("submit")[1].attributes["error.type"] == "ConnectionError"
    assert instrumented.counts() == {
        "task.submitted": 1,
        "task.dispatched": 1,
        "task.completed failure": 1,
    }


def test_a_dead_letter_put_back_is_a_new_task(instrumented: Telemetry, stub: StubBroker) -> None:
    ran = Ran(stub, max_retries=1)

    def fail_twice() -> None:
        if len(ran.calls) <= 2:
            raise ValueError

    ran.body = fail_twice
    ran.actor.send()
    work_until(stub, lambda: stub.dead_letters)
    (dead,) = stub.dead_letters
    assert dead.options["retries"]
    stub.enqueue(dramatiq.Message.decode(dead.encode()))
    work_until(stub, lambda: len(ran.calls) == 3)
    assert instrumented.counts() == {
        "task.submitted": 2,
        "task.dispatched": 3,
        "task.retried": 1,
        "task.completed failure": 1,
        "task.completed success": 1,
    }


def test_an_actor_that_goes_on_with_its_own_message_submits_new_tasks(
    instrumented: Telemetry, stub: StubBroker
) -> None:
    """The same holds after a retry, although the copies carry its number."""
    ran = Ran(stub)

    def go_on() -> None:
        ran.fail_once()
        message: Any = CurrentMessage.get_current_message()
        if message.args < (3,):
            stub.enqueue(message.copy(args=(message.args[0] + 1,)))

    ran.body = go_on
    ran.actor.send(1)
    work_until(stub, lambda: len(ran.calls) == 4)
    assert [args for args, _ in ran.calls] == [(1,), (1,), (2,), (3,)]
    assert [sent.get("retries") for sent in ran.options[1:]] == [1, 1, 1]
    assert instrumented.counts() == {
        "task.submitted": 3,
        "task.dispatched": 4,
        "task.retried": 1,
        "task.completed success": 3,
    }


class FailsBefore(Middleware):
    def before_process_message(self, broker: Any, message: Any) -> None:
        message.fail()


class FailsAfter(Middleware):
    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: Any = None
    ) -> None:
        message.fail()


@pytest.mark.parametrize("middleware", [FailsBefore, FailsAfter])
def test_a_middleware_fails_a_message_without_an_exception(
    instrumented: Telemetry, stub: StubBroker, middleware: type[Middleware]
) -> None:
    stub.add_middleware(middleware())
    Ran(stub).actor.send()
    work_until(stub, lambda: stub.dead_letters)
    (execute,) = instrumented.spans("execute")
    (completed,) = instrumented.all_points()["task.completed"]
    for told in (execute, completed):
        assert told.attributes["task.status"] == "failure"
        assert told.attributes["error.type"] == "_OTHER"
    assert execute.status.status_code is trace.StatusCode.ERROR


@pytest.mark.parametrize(
    ("of_actor", "of_message", "priority"),
    [
        ({"priority": 7}, {}, 7),
        ({"priority": 7}, {"broker_priority": 3}, 3),
        ({}, {}, None),
    ],
    ids=["of the actor", "the message's goes first", "of nobody"],
)
def test_the_priority_that_was_chosen(
    instrumented: Telemetry,
    stub: StubBroker,
    of_actor: dict[str, int],
    of_message: dict[str, int],
    priority: int | None,
) -> None:
    ran = Ran(stub, **of_actor)
    ran.actor.send_with_options(**of_message)
    work_until(stub, lambda: ran.calls)
    assert [(span.name, span.attributes.get("task.priority")) for span in instrumented.spans()] == [
        ("submit ok", priority),
        ("dispatch ok", priority),
        ("execute ok", priority),
    ]


def test_results_arrive(instrumented: Telemetry, stub: StubBroker) -> None:
    backend = StubBackend()
    stub.add_middleware(Results(backend=backend, store_results=True))
    good, bad = Ran(stub, "good"), Ran(stub, "bad", max_retries=0)
    good.body, bad.body = (lambda: [SECRET]), bad.fail_once
    sent = [ran.actor.send() for ran in (good, bad)]
    work_until(stub, lambda: good.calls and bad.calls)
    assert sent[0].get_result(backend=backend) == [SECRET]
    with pytest.raises(ResultFailure, match="ValueError"):
        sent[1].get_result(backend=backend)
    assert SECRET.encode() not in instrumented.exported()


class Skipping(Middleware):
    def before_process_message(self, broker: Any, message: Any) -> None:
        if message.actor_name == "skipped":
            raise SkipMessage


def test_nothing_stays_attached_to_the_worker_thread(
    instrumented: Telemetry, stub: StubBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub.add_middleware(Skipping())
    skipped, failing, broken = (Ran(stub, name) for name in ("skipped", "failing", "broken"))
    failing.body = failing.fail_once
    told = attempt.Run.outcome

    def outcome(self: attempt.Run, raised: BaseException | None) -> Any:
        if self._message_id == ours.message_id:
            raise RuntimeError
        return told(self, raised)

    monkeypatch.setattr(attempt.Run, "outcome", outcome)
    found: list[object] = []
    queue: PriorityQueue[Any] = PriorityQueue()
    get = queue.get

    def look(*args: Any, **kwargs: Any) -> Any:
        found.append((dict(get_current()), attempt.current.get()))
        return get(*args, **kwargs)

    monkeypatch.setattr(queue, "get", look)
    with instrumented.caller():
        skipped.actor.send()
        failing.actor.send()
        ours = broken.actor.send()
    worker = dramatiq.Worker(stub, worker_timeout=10, worker_threads=1)
    worker.work_queue = queue
    worker.start()
    try:
        wait_until(lambda: len(failing.calls) == 2 and broken.calls)
        seen = len(found)
        wait_until(lambda: len(found) > seen + 2)
    finally:
        worker.stop()
    assert len(instrumented.spans("execute")) == 4
    assert all(thing == ({}, None) for thing in found), found


def test_the_actors_own_span_is_inside_and_its_baggage_readable(
    instrumented: Telemetry, stub: StubBroker
) -> None:
    ran = Ran(stub)
    seen: list[object] = []

    def body() -> None:
        with instrumented.caller():
            seen.append(baggage.get_baggage("user"))

    ran.body = body
    with attached_baggage():
        ran.actor.send()
    work_until(stub, lambda: seen)
    assert seen == ["alice"]
    assert_chain(instrumented.spans())


@contextmanager
def attached_baggage() -> Iterator[None]:
    token = attach(baggage.set_baggage("user", "alice"))
    yield
    detach(token)


def test_gauges_of_a_worker(instrumented: Telemetry, stub: StubBroker) -> None:
    Ran(stub).actor.send()
    assert "task.workers.active" not in instrumented.all_points()
    with working(stub):
        points = instrumented.all_points()
        assert [point.value for point in points["task.workers.active"]] == [2]
        for metric in QUEUE:
            (point,) = points[metric]
            assert point.attributes["messaging.destination.name"] == "default"
            assert point.value == 0
    points = instrumented.all_points()
    assert [point.value for point in points["task.workers.active"]] == [0]
    assert not QUEUE & points.keys()


def test_what_waits_in_memory(stub: StubBroker) -> None:
    ran = Ran(stub)
    assert dict(waiting(stub)) == {"default": Reading(0, "default", delayed=0, dead=0, oldest=0.0)}
    ran.actor.send()
    ran.actor.send()
    ran.actor.send_with_options(delay=600_000)
    stub.dead_letters_by_queue["default"].append(MessageProxy(ran.actor.message()))
    (reading,) = waiting(stub, held=2).values()
    assert reading[:-1] == (2, "default", None, None, 3, 1)
    assert 0 <= reading.oldest < LIMIT


def waiting(broker: dramatiq.Broker, held: int = 0) -> dict[str, Reading]:
    """Read the queue `default` of a worker that holds so many messages for their ETA."""
    delayed: PriorityQueue[int] = PriorityQueue()
    for number in range(held):
        delayed.put(number)
    consumers = {"default": None, "default.DQ": SimpleNamespace(delay_queue=delayed)}
    worker = SimpleNamespace(broker=broker, consumers=consumers)
    found = queues.readings(worker, SimpleNamespace(age=lambda _: None))
    return {str(reading.queue): reading for reading in found}


def test_a_message_that_does_not_tell_its_time_has_no_age(stub: StubBroker) -> None:
    Ran(stub)
    for message in (
        b"\x80\x04",
        b"{}",
        b"[]",
        b'{"options": null}',
        b'{"options": []}',
        b'{"options": {"otel": {}}, "message_timestamp": 1}',
    ):
        stub.queues["default"].queue.clear()
        stub.queues["default"].put(message)
        assert waiting(stub)["default"].oldest is None


# Messages from others

PEERS = {
    "flat": {"traceparent": TRACEPARENT},
    "remoulade": {"trace_ctx": {"traceparent": TRACEPARENT}},
    "instrumentor-dramatiq": {"options": {"trace_context": {"traceparent": TRACEPARENT}}},
    "junk of ours": {"otel": "junk", "traceparent": TRACEPARENT},
    "other case": {"trace_ctx": {"Traceparent": TRACEPARENT}},
}


@pytest.mark.parametrize("delay", [None, 10], ids=["at once", "delayed"])
@pytest.mark.parametrize("dispatch_spans", [True, False], ids=["dispatch", "no dispatch"])
@pytest.mark.parametrize("options", PEERS.values(), ids=PEERS)
def test_the_trace_of_another_tracer_goes_on(
    telemetry: Telemetry,
    stub: StubBroker,
    options: dict[str, Any],
    dispatch_spans: bool,  # noqa: FBT001 - a parameter of the test
    delay: int | None,
) -> None:
    telemetry.instrument(dispatch_spans=dispatch_spans)
    ran = Ran(stub)
    with suppress_instrumentation():
        stub.enqueue(ran.actor.message_with_options(**options), delay=delay)
    work_until(stub, lambda: ran.calls)
    spans = telemetry.spans()
    assert [span.name.split()[0] for span in spans] == ["dispatch"] * dispatch_spans + ["execute"]
    assert format_trace_id(spans[0].context.trace_id) == TRACE_ID
    assert parent(spans[0]) == SPAN_ID
    assert_chain(spans)


def test_our_carrier_goes_before_anothers(instrumented: Telemetry, stub: StubBroker) -> None:
    ran = Ran(stub)
    stub.enqueue(ran.actor.message_with_options(traceparent=TRACEPARENT))
    work_until(stub, lambda: ran.calls)
    assert_chain(instrumented.spans())
    assert len(instrumented.spans()) == 3


HOSTILE: dict[str, dict[str, Any]] = {
    "a string": {"otel": "x"},
    "a list": {"otel": ["traceparent", TRACEPARENT]},
    "a number": {"otel": 17},
    "nothing": {"otel": None},
    "no trace": {"otel": {"traceparent": "junk", "tracestate": "=,="}},
    "a list of junk": {"otel": {"traceparent": ["a", 3, None], "otel-submitted": ["x"]}},
    "times": {"otel": {"otel-submitted": "inf", "otel-planned": "nan", "otel-dispatched": [1]}},
    "many": {"otel": {str(number): "x" * 100 for number in range(10_000)}},
    "keys": {"otel": {1: 2, None: 3, (4,): 5, b"traceparent": b"\xff"}},
    "held": {"otel": {"otel-delayed": "1"}},
    "of others": {"trace_ctx": "x", "options": ["trace_context"], "traceparent": {"a": 1}},
    "surrogates": {"otel": {"traceparent": "\ud800", "\udfff": "\ud800"}},
    "retries, a word": {"retries": "many"},
    "retries, a list": {"retries": [1]},
    "retries, too many": {"retries": 10**30},
    "retries, nothing": {"retries": None},
    "priority, a dict": {"broker_priority": {"a": 1}},
    "priority, too high": {"broker_priority": 10**30},
}
if not dramatiq.__version__.startswith("1."):  # its consumer dies of it
    HOSTILE["eta, a word"] = {"eta": "soon"}
    HOSTILE["eta, a dict"] = {"eta": {"a": 1}}
    HOSTILE["eta, nothing"] = {"eta": None}


@pytest.fixture
def pickled() -> Iterator[None]:
    """Let messages carry any Python object."""
    encoder = dramatiq.get_encoder()
    dramatiq.set_encoder(dramatiq.PickleEncoder())
    yield
    dramatiq.set_encoder(encoder)


@pytest.mark.parametrize("options", HOSTILE.values(), ids=HOSTILE)
def test_junk_hurts_nobody(
    instrumented: Telemetry,
    stub: StubBroker,
    options: dict[str, Any],
    pickled: None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ran = Ran(stub)
    with suppress_instrumentation():
        stub.enqueue(ran.actor.message_with_options(**options))
    work_until(stub, lambda: ran.calls)
    assert [span.name for span in instrumented.spans()] == ["dispatch ok", "execute ok"]
    assert_chain(instrumented.spans())
    assert instrumented.exported()
    assert instrumented.counts() == {"task.dispatched": 1, "task.completed success": 1}
    assert ours(caplog) == []


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name.partition(".")[0] in {"otel_queue_bridge", "opentelemetry"}
        and record.levelno >= logging.WARNING
    ]


@pytest.mark.parametrize(
    "options",
    [options for name, options in HOSTILE.items() if not name.startswith("retries")],
    ids=[name for name in HOSTILE if not name.startswith("retries")],
)
def test_junk_is_retried(
    instrumented: Telemetry, stub: StubBroker, options: dict[str, Any], pickled: None
) -> None:
    ran = Ran(stub)
    ran.body = ran.fail_once
    with suppress_instrumentation():
        stub.enqueue(ran.actor.message_with_options(**options))
    work_until(stub, lambda: len(ran.calls) == 2)
    names = ["dispatch ok", "execute ok", "submit ok", "dispatch ok", "execute ok"]
    assert [span.name for span in instrumented.spans()] == names
    assert_chain(instrumented.spans())
    assert [span.attributes["task.status"] for span in instrumented.spans("execute")] == [
        "retry",
        "success",
    ]
    assert instrumented.exported()


def test_junk_in_real_brokers(
    instrumented: Telemetry, broker: dramatiq.Broker, caplog: pytest.LogCaptureFixture
) -> None:
    """The junk comes as JSON, as if from a stranger."""
    ran = Ran(broker)
    junk = [
        options for name, options in HOSTILE.items() if not name.startswith(("keys", "priority"))
    ]
    with suppress_instrumentation():
        for options in junk:
            broker.enqueue(ran.actor.message_with_options(**options))
    work_until(broker, lambda: len(ran.calls) == len(junk))
    assert len(instrumented.spans("execute")) == len(instrumented.spans("dispatch")) == len(junk)
    assert instrumented.exported()
    assert ours(caplog) == []


def test_what_nobody_can_read_is_no_message(
    instrumented: Telemetry, valkey: Valkey, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dramatiq fails on it, restarts its consumer, and goes on; so do we."""
    monkeypatch.setattr("dramatiq.worker.CONSUMER_RESTART_DELAY_SECS", 0.01)
    broker = RedisBroker(url=redis_url)
    ran = Ran(broker)
    ran.actor.send()
    with valkey.client() as client:
        client.hset("dramatiq:default.msgs", "junk", b"no JSON")
        client.rpush("dramatiq:default", "junk")
    work_until(broker, lambda: ran.calls)
    assert [span.name for span in instrumented.spans()] == [
        "submit ok",
        "dispatch ok",
        "execute ok",
    ]
