"""One live submit, dispatch or execute: what its span says, and when there is none."""

import asyncio
import contextvars
import logging
import os
import subprocess
import sys
import time

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_queue_bridge.adapter import (
    CANCELLED,
    IGNORED,
    REJECTED,
    RETRY,
    SUCCESS,
    Adapter,
    Arguments,
    Call,
    Outcome,
    Task,
    failed,
)
from otel_queue_bridge.bridge import Bridge
from otel_queue_bridge.config import load
from tests.fakelib import Boom, Unprintable
from tests.servers import CLOCK, LIMIT


class Watching(Sampler):
    """Remembers what it was asked about, as a sampler of the user's would decide on it."""

    def __init__(self):
        self.asked = []

    def should_sample(
        self,
        parent_context,
        trace_id,
        name,
        kind=None,
        attributes=None,
        links=None,
        trace_state=None,
    ):
        self.asked.append((name, dict(attributes or {}), list(links or ())))
        result: SamplingResult = ParentBased(ALWAYS_ON).should_sample(
            parent_context, trace_id, name, kind, attributes, links
        )
        return result

    def get_description(self):
        return "watching"


class Bench:
    """A made-up queue, instrumented with one set of options, and the spans that this made."""

    def __init__(self, options, interrupts=()):
        self.sampler = Watching()
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=self.sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        keywords = {
            "tracer_provider": self.provider,
            "propagator": TraceContextTextMapPropagator(),
            **options,
        }
        names = {"dispatch": "fake.control_plane.dispatch"}
        adapter = Adapter("fake", (), (), span_names=names, interrupts=interrupts)
        self.bridge = Bridge(adapter, load(keywords, environment={}))
        assert self.bridge.active()

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def run(self, outcome=None, task=None):
        """Execute a task and return its span."""
        with self.bridge.execute(task or mail()) as operation:
            if outcome is not None:
                operation.settle(outcome)
        return self.spans[-1]


@pytest.fixture
def bench():
    benches = []

    def make(interrupts=(), **options):
        benches.append(Bench(options, interrupts))
        return benches[-1]

    yield make
    for made in benches:
        made.bridge.undo()


def mail(**facts) -> Task:
    return Task("mail", "low", **facts)


def raised(error: BaseException) -> BaseException:
    """Return the error with a traceback, as a host hands it over."""
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001
        return caught


def everything(span) -> str:
    """All that leaves the process about a span."""
    return span.to_json()


FACTS = {
    "id": "42",
    "attempt": 2,
    "priority": 9,
    "worker": "w1",
    "server": ("redis", 6379),
    "attributes": {"fake.pool": "solo"},
}


@pytest.mark.parametrize(
    ("step", "kind", "operation_type"),
    [
        ("submit", SpanKind.PRODUCER, "send"),
        ("dispatch", SpanKind.CLIENT, "receive"),
        ("execute", SpanKind.CONSUMER, "process"),
    ],
)
def test_a_span_tells_all_that_is_known_and_the_sampler_knew_it_first(
    bench, step, kind, operation_type
):
    b = bench()
    getattr(b.bridge, step)(mail(**FACTS)).end()
    (span,) = b.spans
    assert (span.name, span.kind) == (f"{step} mail", kind)
    assert span.attributes == {
        "messaging.system": "fake",
        "messaging.operation.name": step,
        "messaging.operation.type": operation_type,
        "messaging.destination.name": "low",
        "messaging.message.id": "42",
        "task.name": "mail",
        "task.attempt": 2,
        "task.priority": 9,
        "task.worker": "w1",
        "server.address": "redis",
        "server.port": 6379,
        "fake.pool": "solo",
    }
    assert b.sampler.asked == [(span.name, dict(span.attributes), [])]
    assert span.instrumentation_scope.name == "otel_queue_bridge"
    assert span.instrumentation_scope.schema_url.endswith("/1.44.0")


def test_what_is_unknown_is_left_out(bench):
    span = bench().run()
    assert set(span.attributes) == {
        "messaging.system",
        "messaging.operation.name",
        "messaging.operation.type",
        "messaging.destination.name",
        "task.name",
    }


@pytest.mark.parametrize(
    ("naming", "names", "status"),
    [
        ("task", ["submit mail", "dispatch mail", "execute mail"], "task.status"),
        (
            "system",
            ["fake.client.submit", "fake.control_plane.dispatch", "fake.task.execute"],
            "status",
        ),
        ("messaging", ["submit low", "dispatch low", "execute low"], "task.status"),
    ],
)
def test_each_vocabulary_names_spans_and_status(bench, naming, names, status):
    b = bench(naming=naming)
    b.bridge.submit(mail()).end()
    b.bridge.dispatch(mail()).end()
    span = b.run(SUCCESS)
    assert [span.name for span in b.spans] == names
    assert span.attributes[status] == "success"
    assert len({"status", "task.status"} & span.attributes.keys()) == 1


def test_the_sampler_sees_the_link(bench):
    b = bench(relation="link")
    carrier = {}
    submit = b.bridge.submit(mail(carrier=carrier))
    b.bridge.execute(mail(carrier=carrier)).end()
    _, _, links = b.sampler.asked[-1]
    submitted = trace.get_current_span(submit.context).get_span_context()
    assert [link.context.span_id for link in links] == [submitted.span_id]


def test_submit_dispatch_and_execute_are_one_chain(bench):
    b = bench()
    carrier = {}
    with b.bridge.submit(mail(carrier=carrier)):
        pass
    with b.bridge.dispatch(mail(carrier=carrier)) as operation:
        operation.inject(carrier)
    b.run(task=mail(carrier=carrier))
    submit, dispatch, execute = b.spans
    assert submit.parent is None
    assert dispatch.parent.span_id == submit.context.span_id
    assert execute.parent.span_id == dispatch.context.span_id
    assert "task.wait" in execute.attributes
    assert "task.wait" not in dispatch.attributes


def test_with_a_propagator_that_fails_the_submit_stays_in_the_carrier(bench, caplog):
    class Failing(TraceContextTextMapPropagator):
        def inject(self, carrier, context=None, setter=None):
            raise ValueError("no")

    carrier = {}
    bench().bridge.submit(mail(carrier=carrier)).end()
    before = dict(carrier)
    failing = bench(propagator=Failing())
    with failing.bridge.dispatch(mail(carrier=carrier)) as dispatch:
        dispatch.inject(carrier)
        dispatch.inject(carrier)
    assert carrier == before
    assert [span.name for span in failing.spans] == ["dispatch mail"]
    assert len(caplog.records) == 1


def test_without_dispatch_spans_the_carrier_is_left_alone(bench):
    b = bench(dispatch_spans=False)
    carrier = {}
    b.bridge.submit(mail(carrier=carrier)).end()
    before = dict(carrier)
    operation = b.bridge.dispatch(mail(carrier=carrier))
    operation.inject(carrier)
    operation.settle(CANCELLED)
    operation.end()
    assert carrier == before
    b.run(task=mail(carrier=carrier))
    submit, execute = b.spans
    assert execute.parent.span_id == submit.context.span_id


def test_an_operation_is_current_inside_its_with_only(bench):
    b = bench()
    outside = trace.get_current_span()
    with b.bridge.execute(mail()), b.provider.get_tracer("user").start_as_current_span("mine"):
        pass
    mine, execute = b.spans
    assert mine.parent.span_id == execute.context.span_id
    assert trace.get_current_span() is outside


def test_it_ends_once_whoever_ends_it(bench):
    b = bench()
    with b.bridge.execute(mail()) as operation:
        operation.settle(SUCCESS)
        operation.end()
        operation.settle(failed(Boom()))
        operation.end()
    (span,) = b.spans
    assert span.attributes["task.status"] == "success"


@pytest.mark.parametrize("error", [None, Boom("it failed")])
def test_it_may_be_settled_by_what_a_call_came_to(bench, error):
    call = Call(None, (), {})
    call.error = error
    b = bench()
    with b.bridge.execute(mail()) as operation:
        operation.settle_by(call)
    (span,) = b.spans
    assert span.attributes["task.status"] == ("failure" if error else "success")
    assert span.attributes.get("error.type") == (error and "tests.fakelib.Boom")


async def run_until_closed(bridge, began):
    with bridge.execute(mail()) as operation:
        operation.settle(SUCCESS)
        began.append(trace.get_current_span())
        await asyncio.sleep(0)


def test_a_coroutine_that_is_closed_in_another_context_ends_its_operation_without_a_word(
    bench, caplog
):
    """As an event loop does that is closed while tasks run; `detach` would log a traceback."""
    b, began = bench(), []
    coroutine = run_until_closed(b.bridge, began)
    contextvars.copy_context().run(coroutine.send, None)
    assert began[0].is_recording()
    outside = trace.get_current_span()
    coroutine.close()
    assert not began[0].is_recording()
    assert [span.attributes["task.status"] for span in b.spans] == ["success"]
    assert trace.get_current_span() is outside
    assert caplog.records == []


def test_a_disowned_operation_is_never_reported(bench):
    b = bench()
    with b.bridge.execute(mail()) as operation:
        operation.disown()
    operation.end()
    assert b.spans == ()
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_an_id_may_come_after_the_submit(bench):
    b = bench()
    with b.bridge.submit(mail()) as operation:
        operation.identify("late")
    assert b.spans[0].attributes["messaging.message.id"] == "late"


# Outcomes


@pytest.mark.parametrize("outcome", [SUCCESS, RETRY, CANCELLED, REJECTED, IGNORED])
def test_only_failures_are_errors(bench, outcome):
    span = bench().run(outcome)
    assert span.attributes["task.status"] == outcome.status
    assert "error.type" not in span.attributes
    assert (span.status.status_code, span.events) == (StatusCode.UNSET, ())


def test_the_last_word_about_the_outcome_counts(bench):
    b = bench()
    with b.bridge.execute(mail()) as operation:
        operation.settle(failed(Boom("early")))
        operation.settle(RETRY)
    assert b.spans[0].attributes["task.status"] == "retry"
    assert b.spans[0].status.status_code is StatusCode.UNSET


@pytest.mark.parametrize(
    ("error", "name"), [(Boom("it failed"), "tests.fakelib.Boom"), (KeyError("it failed"), None)]
)
def test_a_failure_is_an_error_with_type_message_and_event(bench, error, name):
    name = name or "KeyError"
    span = bench().run(failed(raised(error)))
    assert span.attributes["task.status"] == "failure"
    assert span.attributes["error.type"] == name
    assert span.status.status_code is StatusCode.ERROR
    assert "it failed" in span.status.description
    (event,) = span.events
    assert event.name == "exception"
    assert event.attributes["exception.type"] == name
    assert event.attributes["exception.message"] == str(error)
    assert "in raised" in event.attributes["exception.stacktrace"]


def test_an_exception_that_the_user_declared_is_a_failure_and_no_error(bench):
    span = bench().run(failed(raised(Boom("known")), expected=True))
    assert span.attributes["task.status"] == "failure"
    assert (span.status.status_code, span.events) == (StatusCode.UNSET, ())


def test_a_retry_after_an_unexpected_exception_is_an_error(bench):
    span = bench().run(Outcome("retry", raised(Boom())))
    assert span.attributes["task.status"] == "retry"
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"].endswith("Boom")


def test_a_failure_that_nothing_names_is_an_error_all_the_same(bench):
    span = bench().run(Outcome("failure"))
    assert span.attributes["error.type"] == "_OTHER"
    assert span.status.status_code is StatusCode.ERROR


class TimeLimit(Exception):  # noqa: N818 - the host's names are the host's
    def __str__(self):
        raise self


def struck(*_, **__):
    raise TimeLimit


class Striking(TraceContextTextMapPropagator):
    inject = extract = struck


class Unshowable:
    __repr__ = struck


@pytest.mark.parametrize(
    ("options", "run"),
    [
        ({"submit_hook": struck}, lambda b: b.bridge.submit(mail())),
        ({"propagator": Striking()}, lambda b: b.bridge.submit(mail(carrier={}))),
        ({"propagator": Striking()}, lambda b: b.run(task=mail(carrier={"traceparent": "x"}))),
        ({}, lambda b: b.run(failed(TimeLimit()))),
        (
            {"capture_arguments": "mail:to"},
            lambda b: b.bridge.submit(
                mail(arguments=lambda: Arguments(None, (), {"to": Unshowable()}))
            ),
        ),
        (
            {"capture_arguments": "mail:to"},
            lambda b: b.bridge.submit(mail(arguments=struck)),
        ),
    ],
    ids=["hook", "inject", "extract", "message", "argument", "arguments"],
)
def test_a_time_limit_that_strikes_in_our_code_is_the_tasks(bench, options, run):
    with pytest.raises(TimeLimit):
        run(bench(interrupts=(f"{__name__}:TimeLimit",), **options))


def test_an_error_whose_object_never_arrived_is_named_by_its_type(bench):
    span = bench().run(Outcome("failure", error_type="shop.Lost"))
    assert span.attributes["error.type"] == "shop.Lost"
    assert span.status.status_code is StatusCode.ERROR
    assert span.events == ()


def test_a_failing_publish_has_no_task_status(bench):
    b = bench()
    with b.bridge.submit(mail()) as operation:
        operation.settle(failed(raised(ConnectionError("no broker"))))
    (span,) = b.spans
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "ConnectionError"
    assert "task.status" not in span.attributes


def test_a_submit_that_went_wrong_after_the_handing_over_is_an_error_all_the_same(bench):
    b = bench()
    with b.bridge.submit(mail()) as operation:
        operation.settle(Outcome("success", raised(TimeoutError("no reply"))))
    (span,) = b.spans
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "no reply")
    assert span.attributes["error.type"] == "TimeoutError"
    assert "task.status" not in span.attributes


@pytest.mark.parametrize("kind", [Boom, Unprintable])
def test_an_error_without_a_text_is_described_by_its_type(bench, kind):
    span = bench().run(failed(raised(kind())))
    assert span.status.description == f"tests.fakelib.{kind.__name__}"


# Exchanges


def submitted(b):
    """Submit a task; return its carrier and the span."""
    carrier = {}
    b.bridge.submit(mail(carrier=carrier)).end()
    return carrier, b.spans[-1]


def test_an_exchange_is_the_child_of_the_operation_in_the_carrier(bench):
    b = bench()
    carrier, submit = submitted(b)
    with b.provider.get_tracer("user").start_as_current_span("elsewhere"):
        exchange = b.bridge.exchange("nng.req_reply", [carrier], {"nng.attempt": 2})
        exchange.note("nng.reply.size", 7)
        assert b.spans == (submit,)
        exchange.close()
    span = b.spans[1]
    assert (span.name, span.kind) == ("nng.req_reply", SpanKind.CLIENT)
    assert span.parent.span_id == submit.context.span_id
    assert (span.links, span.events, span.status.status_code) == ((), (), StatusCode.UNSET)
    assert span.attributes == {
        "messaging.system": "fake",
        "nng.attempt": 2,
        "nng.reply.size": 7,
    }


def test_an_exchange_is_not_current(bench):
    b = bench()
    carrier, _ = submitted(b)
    before = trace.get_current_span()
    exchange = b.bridge.exchange("nng.req_reply", [carrier], {})
    assert trace.get_current_span() is before
    exchange.close()


def test_an_exchange_for_several_is_the_callers_and_links_to_each(bench):
    b = bench(excluded_tasks="secret")
    submits = [submitted(b) for _ in range(2)]
    secret = {}
    b.bridge.submit(Task("secret", "low", carrier=secret)).end()
    carriers = [submits[0][0], secret, {"traceparent": 7}, submits[1][0]]
    with b.provider.get_tracer("user").start_as_current_span("caller") as caller:
        b.bridge.exchange("nng.req_reply", carriers, {}).close()
    span = b.spans[2]
    assert span.parent.span_id == caller.get_span_context().span_id
    linked = [link.context.span_id for link in span.links]
    assert linked == [submit.context.span_id for _, submit in submits]


@pytest.mark.parametrize("carriers", [[], [{}], [None], [{"traceparent": "none"}], [{}, {}]])
def test_an_exchange_for_nothing_that_is_traced_is_no_span(bench, carriers):
    b = bench()
    with b.provider.get_tracer("user").start_as_current_span("caller"):
        exchange = b.bridge.exchange("nng.req_reply", carriers, {})
        exchange.note("nng.reply.size", 7)
        exchange.close(failed(Boom()))
    assert [span.name for span in b.spans] == ["caller"]


def test_an_exchange_for_a_task_that_is_not_sampled_is_not_recorded(bench):
    b = bench()
    unsampled = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0))
    carrier = {}
    with trace.use_span(NonRecordingSpan(unsampled)):
        b.bridge.submit(mail(carrier=carrier)).end()
    exchange = b.bridge.exchange("nng.req_reply", [carrier], {})
    exchange.note("nng.reply.size", 7)
    exchange.close(failed(Boom()))
    assert carrier["traceparent"].endswith("-00")
    assert b.spans == ()


@pytest.mark.parametrize(
    ("error", "error_type", "description"),
    [
        (TimeoutError("no reply"), "TimeoutError", "no reply"),
        (Boom(), "tests.fakelib.Boom", "tests.fakelib.Boom"),
        (None, "crossed_reply", "crossed_reply"),
    ],
)
def test_an_exchange_that_failed_is_an_error(bench, error, error_type, description):
    b = bench()
    carrier, _ = submitted(b)
    known = error and failed(raised(error))
    outcome = known or Outcome("failure", error_type=error_type)
    b.bridge.exchange("nng.req_reply", [carrier], {}).close(outcome)
    span = b.spans[1]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, description)
    assert span.attributes == {"messaging.system": "fake", "error.type": error_type}
    assert [event.name for event in span.events] == (["exception"] if error else [])


def test_an_exchange_ends_once(bench, caplog):
    b = bench()
    carrier, _ = submitted(b)
    exchange = b.bridge.exchange("nng.req_reply", [carrier], {})
    exchange.close()
    exchange.close(failed(Boom()))
    _, span = b.spans
    assert span.status.status_code is StatusCode.UNSET
    assert caplog.records == []  # the SDK would complain


# What may not leave the process


def chained(secret):
    """An error with a message, raised from one that has it too."""
    try:
        try:
            raise Boom(secret)
        except Boom as cause:
            raise ValueError(secret) from cause
    except ValueError as error:
        return error


@pytest.mark.parametrize("make", [chained, lambda text: raised(Boom(text)), Boom])
def test_without_exception_messages_none_leaves_the_process(bench, make):
    secret = "4111-1111"  # noqa: S105
    span = bench(exception_messages=False).run(failed(make(secret)))
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"]
    assert span.events
    assert secret not in everything(span)


def test_without_exception_messages_a_literal_one_does_not_leave_either(bench):
    try:
        raise Boom("literal message")
    except Boom as error:
        span = bench(exception_messages=False).run(failed(error))
    assert "literal message" not in everything(span)


@pytest.mark.parametrize(
    "address",
    [
        "redis://:{}@host:6379/0",
        "amqps://user:{}@host//",
        "https://{}@collector/v1/traces",
        "two: redis://:{}@a and redis://:{}@b",
    ],
)
def test_credentials_in_an_address_are_masked_wherever_a_message_goes(bench, address):
    secret = "passw0rd"  # noqa: S105
    error = chained(address.format(secret, secret))
    span = bench().run(failed(error))
    assert secret not in everything(span)
    assert "***@" in span.status.description


@pytest.mark.parametrize("password", ["p@ssw0rd", "pass/w0rd"])
def test_careless_credentials_are_masked_too(bench, password):
    span = bench().run(failed(raised(Boom(f"cannot reach redis://:{password}@host/0"))))
    assert "w0rd" not in everything(span)


MANY_ADDRESSES = """
from otel_queue_bridge.adapter import Adapter, Task, failed
from otel_queue_bridge.bridge import Bridge
from otel_queue_bridge.config import Config
from opentelemetry.sdk.trace import TracerProvider
bridge = Bridge(Adapter("fake", (), ()), Config(tracer_provider=TracerProvider()))
assert bridge.active()
with bridge.execute(Task("mail", "low")) as operation:
    operation.settle(failed(ValueError("http://host/path," * 50_000)))
print("done")
"""


def test_a_long_message_full_of_addresses_does_not_hold_up_the_worker():
    assert python(MANY_ADDRESSES, timeout=LIMIT) == ["done"]


def test_an_unprintable_exception_is_reported_without_its_text(bench):
    span = bench().run(failed(raised(Unprintable())))
    assert span.attributes["error.type"] == "tests.fakelib.Unprintable"
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


@pytest.mark.parametrize("where", ["name", "message"])
def test_text_that_is_no_unicode_can_still_be_exported(bench, where):
    text = os.fsdecode(b"r\xe9sum\xe9.pdf")
    b = bench()
    if where == "name":
        b.run(SUCCESS, task=Task(text, "low"))
    else:
        b.run(failed(raised(FileNotFoundError(text))))
    assert encode_spans(b.spans).SerializeToString()


def test_a_number_that_no_exporter_takes_is_left_out(bench):
    """A broker's: it would cost the spans beside it their export, too."""
    b = bench()
    b.bridge.execute(Task("ok", "queue", attempt=10**30, priority=3)).end()
    (span,) = b.spans
    assert encode_spans(b.spans).SerializeToString()
    assert "task.attempt" not in span.attributes
    assert span.attributes["task.priority"] == 3


def test_arguments_are_recorded_only_where_listed(bench):
    b = bench(capture_arguments="mail:to,cc,missing;other:password")
    given = Arguments(None, (), {"to": "ann", "cc": ["bob"], "password": "hunter2"})
    span = b.run(task=mail(arguments=lambda: given))
    recorded = {k: v for k, v in span.attributes.items() if k.startswith("task.argument")}
    assert recorded == {"task.argument.to": "ann", "task.argument.cc": "['bob']"}


def test_arguments_of_other_tasks_are_not_even_looked_at(bench):
    looked = []
    b = bench(capture_arguments="other:to")
    b.run(task=mail(arguments=lambda: looked.append(1) or Arguments(None)))
    assert looked == []


def test_an_unprintable_argument_costs_no_span(bench):
    b = bench(capture_arguments="mail:to")
    span = b.run(task=mail(arguments=lambda: Arguments(None, (), {"to": Unprintable()})))
    assert span.attributes["task.argument.to"] == "<RuntimeError>"


# When there is little or nothing to do


def test_an_unsampled_trace_costs_no_work_per_task_and_goes_on(bench):
    b = bench(capture_arguments="mail:to")
    looked = []
    unsampled = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0))
    carrier = {}

    def arguments():
        looked.append(1)
        return Arguments(None, (), {"to": "ann"})

    task = mail(id="42", carrier=carrier, arguments=arguments)
    with trace.use_span(NonRecordingSpan(unsampled)), b.bridge.submit(task) as operation:
        operation.settle(failed(Boom()))
    assert carrier["traceparent"].startswith(f"00-{1:032x}-")
    assert carrier["traceparent"].endswith("-00")
    b.bridge.execute(mail(id="42", carrier=carrier, arguments=arguments)).end()
    assert (b.spans, looked) == ((), [])
    assert len(b.sampler.asked) == 2
    for _, attributes, _ in b.sampler.asked:
        assert attributes["task.name"] == "mail"
        assert "messaging.message.id" not in attributes


def test_a_sampler_that_does_not_follow_its_parent_still_gets_full_spans(bench):
    exporter, provider = InMemorySpanExporter(), TracerProvider(sampler=ALWAYS_ON)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    b = bench(tracer_provider=provider)
    unsampled = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(0))
    with trace.use_span(NonRecordingSpan(unsampled)):
        b.bridge.submit(mail(id="42")).end()
    (span,) = exporter.get_finished_spans()
    assert span.attributes["messaging.message.id"] == "42"


@pytest.mark.parametrize(
    "options",
    [{"excluded_tasks": "ma*"}, {"excluded_queues": "l?w"}, {"excluded_tasks": ["x", "mail"]}],
)
def test_an_excluded_task_has_no_span_and_its_carrier_is_untouched(bench, options):
    b = bench(**options)
    carrier = {"theirs": "1", "traceparent": "what was there"}
    before = dict(carrier)
    with b.bridge.submit(mail(carrier=carrier)) as operation:
        operation.settle(failed(Boom()))
    for step in (b.bridge.dispatch, b.bridge.execute):
        with step(mail(carrier=carrier)) as operation:
            operation.inject(carrier)
            operation.settle(SUCCESS)
    assert (b.spans, carrier) == ((), before)
    b.bridge.submit(Task("other", "high")).end()
    assert [span.name for span in b.spans] == ["submit other"]


def test_what_an_excluded_submit_surrounds_stays_with_the_caller(bench):
    b = bench(excluded_tasks="mail")
    tracer = b.provider.get_tracer("user")
    with tracer.start_as_current_span("caller") as caller, b.bridge.submit(mail(carrier={})):
        assert trace.get_current_span() is caller


def test_hooks_get_span_and_task(bench):
    calls = []

    def hook(span, task):
        calls.append((span.name, task))
        span.set_attribute("shop", "berlin")

    b = bench(submit_hook=hook, execute_hook=hook)
    submitted, executed = mail(), mail()
    b.bridge.submit(submitted).end()
    b.bridge.dispatch(mail()).end()
    b.run(task=executed)
    assert calls == [("submit mail", submitted), ("execute mail", executed)]
    assert ["shop" in span.attributes for span in b.spans] == [True, False, True]


def test_a_failing_hook_is_logged_once_and_harmless(bench, caplog):
    def hook(span, task):
        raise Boom

    b = bench(execute_hook=hook)
    for _ in range(3):
        b.run(SUCCESS)
    assert len(b.spans) == 3
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("otel_queue_bridge", logging.WARNING)
    assert "hook" in record.getMessage()


def test_the_one_execute_of_a_dispatch_has_one_span_id_whoever_reports_it(bench):
    b = bench()
    carriers = {}, {}
    for carrier, once in zip(carriers, (True, False), strict=True):
        dispatch = b.bridge.dispatch(Task("mail", "low", carrier={}))
        dispatch.inject(carrier, once=once)
        dispatch.end()
    for carrier in carriers:
        for _ in range(2):
            mail = b.bridge.execute(Task("mail", "low", carrier=carrier))
            with mail, b.bridge.execute(Task("inner", "low")):
                pass
    mails = [span for span in b.spans if span.name == "execute mail"]
    first, again, other, last = [span.context.span_id for span in mails]
    assert first == again
    assert len({first, other, last}) == 3
    inner = [span for span in b.spans if span.name == "execute inner"]
    assert len({span.context.span_id for span in inner}) == 4
    assert [span.parent.span_id for span in inner[:2]] == [first, first]


def test_a_mark_that_came_over_the_broker_settles_no_ids(bench):
    """An uninstrumented child copies its headers, our mark among them, into a retry."""
    b = bench()
    stale = {}
    first = b.bridge.dispatch(Task("mail", "low", carrier={}))
    first.inject(stale, once=True)
    for carrier in (stale, {"otel-dispatched": "once"}):
        b.bridge.dispatch(Task("mail", "low", carrier=carrier)).end()
    for _ in range(2):
        b.bridge.execute(Task("mail", "low", carrier={"otel-dispatched": "once"})).end()
    with b.bridge.execute(Task("mail", "low", carrier=stale)):
        pass
    ids = [span.context.span_id for span in b.spans]
    assert len(ids) == len(set(ids)) == 5


def test_suppression_is_honoured(bench):
    bridge = bench().bridge
    with suppress_instrumentation():
        assert not bridge.active()
    assert bridge.active()


@pytest.mark.parametrize(("started", "least"), [(3600.0, 3600.0), (-3600.0, 0.0)])
def test_wait_is_from_submit_to_start_and_never_negative(bench, started, least):
    b = bench()
    carrier = {}
    before = time.time()
    b.bridge.submit(mail(carrier=carrier)).end()
    after = time.time()
    start_time = int((after + started) * 1e9)
    b.bridge.execute(mail(carrier=carrier), start_time=start_time).end()
    most = max(0.0, least + after - before + CLOCK) if least else 0.0
    assert least - CLOCK <= b.spans[-1].attributes["task.wait"] <= most
    assert b.spans[-1].start_time == start_time


def test_a_planned_delay_is_not_waiting(bench):
    b = bench()
    carrier = {}
    planned = time.time() + 3600
    b.bridge.submit(mail(carrier=carrier, eta=planned)).end()
    b.bridge.execute(mail(carrier=carrier), start_time=int((planned + 5) * 1e9)).end()
    assert b.spans[-1].attributes["task.wait"] == pytest.approx(5, abs=0.01)


def python(code: str, timeout: float = LIMIT, **variables: str) -> list[str]:
    """Run code in a process of its own, where globals may be set; return what it printed."""
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,  # of what would never end
        env={**os.environ, **variables},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


SETUP = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from otel_queue_bridge.adapter import Adapter
from otel_queue_bridge.bridge import Bridge
from otel_queue_bridge.config import Config
bridge = Bridge(Adapter("fake", (), ()), Config())
before = bridge.active()
trace.set_tracer_provider(TracerProvider())
print(before, bridge.active())
"""


def test_an_sdk_that_is_set_up_after_us_is_found():
    assert python(SETUP) == ["False", "True"]


def test_a_disabled_sdk_leaves_nothing_to_do():
    assert python(SETUP, OTEL_SDK_DISABLED="true") == ["False", "False"]
