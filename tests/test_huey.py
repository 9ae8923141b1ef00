"""Huey's adapter in one process: Huey's classes, with their queue in memory."""

import copy
import gzip
import json
import logging
import pickle
import threading
import zlib
from contextlib import suppress
from datetime import datetime, timedelta, timezone

import pytest
from huey import CancelExecution, Huey, MemoryHuey, RetryTask, chord, group
from huey.exceptions import TaskTimeout
from huey.serializer import Serializer, SignedSerializer
from huey.storage import BaseSqlStorage, MemoryStorage
from opentelemetry import metrics, trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled

from otel_queue_bridge import instrument, uninstrument
from otel_queue_bridge.adapters.huey.carrier import stored
from otel_queue_bridge.adapters.huey.queues import readings
from otel_queue_bridge.cli.doctor import serializers
from tests.collected import Recorded
from tests.servers import LIMIT, wait_until

MARK = b"otel\n"
SECRET = "swordfish"  # noqa: S105 - signs what only tests read


class LostError(Exception):
    """Raised by a storage that is gone."""


class OfHuey(Recorded):
    def counts(self, metric):
        """Return the values of a counter, by status."""
        return {status: value for (status,), value in self.totals(metric, "task.status").items()}

    def paths(self):
        """Return the path of each span, from its root down, in order of their start."""
        known = {span.context.span_id: span for span in self.spans()}

        def path(span):
            above = span.parent and known.get(span.parent.span_id)
            name, _, task = span.name.partition(" ")
            words = (name, task.rpartition(".")[2], span.attributes.get("task.status"))
            return (
                f"{path(above)} > {shown}"
                if (shown := " ".join(filter(None, words))) and above
                else shown
            )

        return [path(span) for span in self.spans()]


@pytest.fixture
def recorded():
    recorded = OfHuey()
    instrument("huey", **recorded.options)
    yield recorded
    uninstrument("huey")


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("huey").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("huey").setLevel(logging.NOTSET)


@pytest.fixture(params=["plain", "gzip", "zlib", "signed", "signed and compressed"])
def serializer(request):
    return {
        "plain": Serializer(),
        "gzip": Serializer(compression=True),
        "zlib": Serializer(compression=True, use_zlib=True),
        "signed": SignedSerializer(secret=SECRET),
        "signed and compressed": SignedSerializer(secret=SECRET, compression=True),
    }[request.param]


def ok(*args, **kwargs):
    return None


def queue(serializer=None, function=ok, **options):
    huey = MemoryHuey("shop", serializer=serializer)
    return huey, huey.task(**options)(function)


def drain(huey):
    """Run all that waits, as a worker does."""
    while (task := huey.dequeue()) is not None:
        huey.execute(task)


# The trailer


def test_the_carrier_is_a_trailer_that_a_bare_peer_does_not_see(recorded, serializer):
    huey, task = queue(serializer)
    task(1, shown=2)
    (data,) = huey.storage.enqueued_items()
    assert set(stored(data, serializer)) == {"traceparent", "otel-submitted"}
    uninstrument("huey")
    message = serializer.deserialize(data)
    assert (message.args, message.kwargs, message.id) == ((1,), {"shown": 2}, huey.pending()[0].id)
    drain(huey)
    instrument("huey", **recorded.options)


def test_one_trace_whatever_the_serializer(recorded, serializer):
    huey, task = queue(serializer)
    with recorded.tracers.get_tracer("user").start_as_current_span("caller"):
        task()
    drain(huey)
    assert recorded.paths()[-1] == "caller > submit ok > dispatch ok > execute ok success"


def test_results_and_what_else_is_stored_bear_no_trailer(recorded, serializer):
    huey, task = queue(serializer, lambda: "result", name="task")
    result = task()
    drain(huey)
    data = huey.storage.peek_data(result.id)
    assert stored(data, serializer) is None
    assert result() == "result"


def trailer(text, length=None):
    return text + (len(text) if length is None else length).to_bytes(4, "big") + MARK


@pytest.mark.parametrize(
    "junk",
    [
        MARK,
        b"\0\0" + MARK,
        trailer(b""),
        trailer(b"{", 1),
        trailer(b"{}", 1),
        trailer(b"{}", 2**32 - 1),
        trailer(b"[1]"),
        trailer(b"null"),
        trailer(b'"text"'),
        trailer(b"\xff\xfe"),
        trailer(b"[" * 60_000),
        trailer(json.dumps({"traceparent": 1, "otel-submitted": [], "tracestate": {}}).encode()),
        trailer(b'{"otel-submitted": NaN, "otel-attempt": "9999999999", "otel-schedule": 1e999}'),
        trailer(json.dumps({"traceparent": "x" * 70_000}).encode()),
    ],
)
def test_a_hostile_trailer_changes_nothing(recorded, serializer, junk, caplog):
    ran = []
    huey, task = queue(serializer, lambda: ran.append(1), name="task")
    with_junk = pickle.dumps(huey._registry.create_message(task.s())) + junk  # noqa: SLF001
    sign = getattr(serializer, "_sign", bytes)
    data = sign(with_junk)
    if serializer.comp:
        data = zlib.compress(data) if serializer.use_zlib else gzip.compress(data)
    huey.storage.enqueue(data)
    drain(huey)
    assert ran == [1]
    assert recorded.paths() == ["dispatch task", "dispatch task > execute task success"]
    assert recorded.spans()[1].attributes["task.attempt"] == 1
    assert "otel_queue_bridge" not in {record.name for record in caplog.records}


@pytest.mark.parametrize("data", [b"", b"junk", pickle.dumps(7), trailer(b"{}")])
def test_what_cannot_be_decoded_is_rejected(recorded, data):
    huey, _ = queue()
    huey.storage.enqueue(data)
    with suppress(Exception):  # pickle's errors are of many kinds
        huey.dequeue()
    assert recorded.paths() == ["dispatch unknown rejected"]


def test_a_custom_serializer_that_calls_its_parent_carries_the_trace(recorded):
    class Reversing(Serializer):
        def _serialize(self, data):
            return super()._serialize(data)[::-1]

        def _deserialize(self, data):
            return super()._deserialize(data[::-1])

    huey, task = queue(Reversing())
    task()
    drain(huey)
    assert recorded.paths()[-1] == "submit ok > dispatch ok > execute ok success"


def test_a_custom_serializer_that_does_not_is_named_once(recorded, caplog):
    class Other(Serializer):
        def _serialize(self, data):
            return pickle.dumps(tuple(data))

        def _deserialize(self, data):
            from huey.registry import Message

            return Message(*pickle.loads(data))  # noqa: S301

    huey, task = queue(Other())
    task()
    task()
    drain(huey)
    assert recorded.paths()[-1] == "dispatch ok > execute ok success"
    said = [record.getMessage() for record in caplog.records if record.name == "otel_queue_bridge"]
    assert len(said) == 1
    assert "Other" in said[0]


@pytest.mark.parametrize("junk", [b"", b"junk", MARK, trailer(b"{"), b"\x1f\x8b junk"])
def test_a_stored_message_that_is_junk_has_no_carrier(serializer, junk):
    assert stored(junk, serializer) is None


# Attempts


def test_a_retry_has_a_number_and_keeps_what_its_submit_decided(recorded):
    def fail():
        raise ValueError

    huey, task = queue(None, fail, retries=2)
    task()
    drain(huey)
    assert recorded.paths()[-1].count("execute fail retry") == 2
    assert recorded.paths()[-1].endswith("execute fail failure")
    numbers = [span.attributes["task.attempt"] for span in recorded.spans()]
    assert numbers == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_the_same_task_object_again_is_another_task(recorded):
    huey, task = queue()
    signature = task.s()
    huey.enqueue(signature)
    huey.enqueue(signature)
    drain(huey)
    traces = {span.context.trace_id for span in recorded.spans()}
    assert (len(traces), len(recorded.spans())) == (2, 6)
    assert vars(signature).keys() & {"otel_carrier"} == set()


def test_a_running_task_may_be_copied_and_enqueued_anew(recorded):
    def body(task=None):
        copies.append(copy.deepcopy(task))
        if len(copies) == 1:
            huey.enqueue(copy.copy(task))

    copies = []
    huey, _ = queue(None, body, context=True)
    huey.enqueue(_.s())
    drain(huey)
    assert recorded.paths()[-1] == (
        "submit body > dispatch body > execute body success"
        " > submit body > dispatch body > execute body success"
    )
    assert {span.attributes["task.attempt"] for span in recorded.spans()} == {1}


def test_a_task_that_is_only_looked_at_is_not_dispatched(recorded):
    huey, task = queue()
    task()
    task.schedule(delay=100)
    assert len(huey.pending()) == 2
    drain(huey)
    assert len(huey.scheduled()) == 1
    assert recorded.paths() == [
        "submit ok",
        "submit ok",
        "submit ok > dispatch ok",
        "submit ok > dispatch ok > execute ok success",
    ]


@pytest.mark.parametrize("utc", [True, False])
def test_the_planned_start_is_no_waiting(recorded, utc):
    huey = MemoryHuey("shop", utc=utc)
    task = huey.task()(ok)
    task.schedule(eta=datetime.now(timezone.utc) + timedelta(seconds=1))
    huey.execute(huey.dequeue())
    later = huey._get_timestamp() + timedelta(seconds=2)  # noqa: SLF001
    (delayed,) = huey.read_schedule(later)
    huey.execute(delayed, later)
    execute = recorded.spans()[-1]
    assert execute.attributes["task.wait"] == 0  # it ran ahead of its time


def test_what_a_signals_receiver_submits_is_another_task(recorded):
    huey, task = queue()
    then = huey.task(name="then")(ok)

    @huey.signal("enqueued", "complete", "revoked")
    def receive(signal, task):
        if task.name != "then":
            then(signal)

    task()
    result = task.schedule(delay=0)
    result.revoke()
    drain(huey)
    paths = recorded.paths()
    assert paths.count("submit ok > submit then") == 2
    assert "submit ok > dispatch ok > execute ok success > submit then" in paths
    assert "submit ok > dispatch ok cancelled > submit then" in paths


def test_a_time_limit_that_hits_our_code_stops_the_task(recorded):
    """Huey's signal handler, or gevent's timer, raises wherever the code is."""

    def reach_the_limit(*_):
        raise TaskTimeout

    went_on = []
    huey, other = queue(name="other")

    @huey.task(name="limited")
    def limited():
        other()
        went_on.append(1)

    limited()
    uninstrument("huey")
    instrument("huey", submit_hook=reach_the_limit, **recorded.options)
    huey.execute(huey.dequeue())
    assert went_on == []
    (execute,) = (span for span in recorded.spans() if span.name.startswith("execute"))
    assert execute.attributes["error.type"] == "huey.exceptions.TaskTimeout"


def test_a_signals_receiver_is_no_polling(recorded):
    huey, task = queue()
    seen = {}

    @huey.signal()
    def receive(signal, _):
        seen.setdefault(signal, []).append(is_instrumentation_enabled())

    task.schedule(delay=100)
    huey.execute(huey.dequeue())
    scheduler = huey.create_consumer().scheduler_class(huey, threading.Event(), 1, periodic=False)
    scheduler.stop_flag.set()
    scheduler.loop(huey._get_timestamp() + timedelta(seconds=200))  # noqa: SLF001
    assert seen == {"enqueued": [True, True], "scheduled": [True]}


# Immediate


@pytest.fixture
def immediate():
    return MemoryHuey("shop", immediate=True)


def test_immediate_tasks_have_no_dispatch(recorded, immediate):
    task = immediate.task()(ok)
    with recorded.tracers.get_tracer("user").start_as_current_span("caller"):
        task()
    assert recorded.paths() == [
        "caller",
        "caller > submit ok",
        "caller > submit ok > execute ok success",
    ]


def test_an_immediate_task_that_has_expired_is_counted(recorded, immediate):
    task = immediate.task()(ok)
    immediate.enqueue(task.s(expires=-1))
    task()
    assert recorded.counts("task.submitted") == {None: 2}
    assert recorded.counts("task.completed") == {"cancelled": 1, "success": 1}
    assert recorded.counts("task.dispatched") == {}


@pytest.mark.parametrize("broken", ["body", "put_data", "peek_many"])
def test_immediate_tasks_add_up_whatever_raises(recorded, broken):
    """The last is asked before the run, whether the task is revoked."""

    def fail(*_, **__):
        raise SystemExit

    huey = MemoryHuey("shop", immediate=True)
    task = huey.task()(fail if broken == "body" else lambda: 1)
    setattr(huey.storage, broken, fail)
    with pytest.raises(SystemExit):
        task()
    ran = broken != "peek_many"
    assert recorded.counts("task.submitted") == ({None: 1} if ran else {})
    assert recorded.counts("task.completed") == ({"failure": 1} if ran else {})
    assert recorded.spans()[0].attributes["error.type"] == "SystemExit"


def test_an_immediate_retry_is_inside_its_attempt(recorded, immediate):
    attempts = []

    @immediate.task(retries=1)
    def again():
        attempts.append(1)
        if len(attempts) == 1:
            raise ValueError

    again()
    assert recorded.paths()[-1] == (
        "submit again > execute again retry > submit again > execute again success"
    )
    assert [span.attributes["task.attempt"] for span in recorded.spans()] == [1, 1, 2, 2]


def test_immediate_pipelines_groups_and_chords(recorded, immediate):
    one = immediate.task(name="one")(lambda *_: 1)
    two = immediate.task(name="two")(lambda *_: 2)
    immediate.enqueue(one.s().then(two))
    assert (
        recorded.paths()[-1]
        == "submit one > execute one success > submit two > execute two success"
    )
    immediate.enqueue(group([one.s(), one.s()]))
    immediate.enqueue(chord([one.s(), one.s()], two.s()))
    assert (
        recorded.paths()[-1]
        == "submit one > execute one success > submit two > execute two success"
    )
    assert sum(path == "submit one" for path in recorded.paths()) == 5


# Workers


def start(huey):
    consumer = huey.create_consumer(periodic=False, initial_delay=0.01)
    consumer._set_signal_handlers = lambda: None  # noqa: SLF001 - the test's own stay
    consumer.start()
    return consumer


def workers(recorded):
    return recorded.totals("task.workers.active").get(())


@pytest.fixture
def gate():
    """Holds `began` and `opened`: of a task that runs until the test lets it end."""
    opened = threading.Event()
    yield threading.Event(), opened
    opened.set()


@pytest.fixture
def gated(gate):
    began, opened = gate
    return queue(None, lambda: (began.set(), opened.wait(LIMIT)), name="gated")


@pytest.mark.parametrize("graceful", [True, False])
def test_what_ends_after_a_consumer_was_stopped_is_a_success(recorded, gate, gated, graceful):
    """The process lives on; a graceful stop waits for its own workers alone."""
    (began, opened), (huey, task) = gate, gated
    running = start(huey)
    task()
    began.wait(LIMIT)
    if graceful:
        wait_until(lambda: workers(recorded) == 1, what="the worker is there")
        other = start(huey)
        wait_until(lambda: workers(recorded) == 2, what="both are there")
        other.stop(graceful=True)
        assert workers(recorded) == 1
    else:
        running.stop()
    opened.set()
    wait_until(lambda: recorded.counts("task.completed"), what="it has ended")
    running.stop(graceful=True)
    assert recorded.counts("task.completed") == {"success": 1}
    assert not workers(recorded)


def test_what_runs_when_the_process_is_to_end_is_interrupted(recorded, gate, gated):
    (began, _), (huey, task) = gate, gated
    consumer = start(huey)
    task()
    began.wait(LIMIT)
    consumer.stop()
    huey.notify_interrupted_tasks()
    assert recorded.counts("task.completed") == {"failure": 1}
    assert recorded.spans()[-1].attributes["error.type"] == "interrupted"


def test_a_consumer_has_gauges_after_we_were_switched_off_and_on(recorded):
    huey, _ = queue()
    consumer = start(huey)
    wait_until(lambda: workers(recorded) == 1, what="the worker is there")
    uninstrument("huey")
    consumer.stop(graceful=True)
    again = Recorded()
    instrument("huey", **again.options)
    consumer = start(huey)
    wait_until(lambda: workers(again) == 1, what="the worker is there")
    consumer.stop(graceful=True)
    assert not workers(again)


def test_what_ends_after_we_were_switched_off_and_on_is_no_success(recorded, gate):
    """Huey signals how it ended, and that was not seen."""
    began, opened = gate

    def fail():
        began.set()
        opened.wait(LIMIT)
        raise ValueError

    huey, task = queue(None, fail, name="fail")
    task()
    running = threading.Thread(target=huey.execute, args=(huey.dequeue(),))
    running.start()
    began.wait(LIMIT)
    uninstrument("huey")
    opened.set()
    running.join()
    instrument("huey", **recorded.options)
    assert not recorded.totals("task.completed")


def test_a_startup_hook_may_set_up_the_sdk(monkeypatch):
    recorded = OfHuey()
    huey, _ = queue()

    @huey.on_startup()
    def set_up():
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", recorded.tracers)
        monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", recorded.provider)  # noqa: SLF001

    instrument("huey")
    try:
        consumer = start(huey)
        wait_until(lambda: workers(recorded) == 1, what="the worker is there")
        consumer.stop(graceful=True)
    finally:
        uninstrument("huey")


# Readings


def test_a_connection_of_the_users_is_not_read_nor_closed(recorded):
    class Storage(BaseSqlStorage):  # as PostgresStorage is
        def __init__(self, name, connection):
            self.connection = connection
            super().__init__(name, create_tables=False)

        def _create_connection(self):
            return self.connection()

    asked = []
    huey = Huey("shop", storage_class=Storage, connection=lambda: asked.append(1))
    assert list(readings(huey, None)) == []
    assert asked == []


# Errors


def test_a_storage_that_fails_is_no_success(recorded):
    class Failing(MemoryStorage):
        def put_data(self, key, value, is_result=False):  # noqa: FBT002 - as Huey has it
            raise LostError

    huey = Huey("shop", storage_class=Failing)
    task = huey.task()(lambda: 1)
    task()
    with pytest.raises(LostError):
        drain(huey)
    execute = recorded.spans()[-1]
    assert (execute.attributes["task.status"], execute.attributes["error.type"]) == (
        "failure",
        "tests.test_huey.LostError",
    )


def test_a_retry_that_cannot_be_stored_is_a_failure(recorded):
    class Failing(MemoryStorage):
        def add_to_schedule(self, data, ts):
            raise LostError

    def fail():
        raise ValueError

    huey = Huey("shop", storage_class=Failing)
    huey.task(retries=1, retry_delay=1)(fail)()
    with pytest.raises(LostError):
        drain(huey)
    submit = recorded.spans()[-1]
    assert (submit.name.partition(" ")[0], submit.attributes["error.type"]) == (
        "submit",
        "tests.test_huey.LostError",
    )
    (execute,) = (span for span in recorded.spans() if span.name.startswith("execute"))
    assert execute.attributes["task.status"] == "failure"


@pytest.mark.parametrize("error", [CancelExecution, RetryTask])
def test_what_asks_for_an_end_is_no_error(recorded, error):
    def ask():
        raise error

    huey, task = queue(None, ask, name="task")
    task()
    huey.execute(huey.dequeue())
    execute = next(span for span in recorded.spans() if span.name.startswith("execute"))
    assert execute.attributes["task.status"] == (
        "cancelled" if error is CancelExecution else "retry"
    )
    assert execute.status.is_unset
    assert "error.type" not in execute.attributes


@pytest.mark.parametrize("shown", [(1, 2), (1,)])
def test_arguments_have_the_names_of_the_users_function(shown):
    recorded = Recorded()

    def takes(first, second=0, task=None):
        pass

    huey, task = queue(None, takes, context=True, name="takes")
    instrument("huey", capture_arguments="tests.test_huey.takes:first,second", **recorded.options)
    try:
        task(*shown)
        drain(huey)
    finally:
        uninstrument("huey")
    submit, *_ = recorded.spans()
    assert submit.attributes["task.argument.first"] == 1
    assert submit.attributes.get("task.argument.second") == (2 if len(shown) > 1 else None)


def test_doctor_names_the_serializers_that_carry_nothing():
    class Json(Serializer):
        def _serialize(self, data):
            return json.dumps(data).encode()

    class Whole(Serializer):
        def serialize(self, data):
            return json.dumps(data).encode()

    class Wrapping(Serializer):
        def _serialize(self, data):
            return b"1" + super()._serialize(data)

    said = {finding.message.partition(",")[0] for finding in serializers.findings()}
    named = {kind for kind in (Json, Whole, Wrapping) if f"{__name__}.{kind.__qualname__}" in said}
    assert named == {Json, Whole}
    assert not any(name.startswith("huey.") for name in said)
