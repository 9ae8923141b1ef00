"""The trace through a queue: whatever the propagator, and whatever a stranger put there."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.b3 import B3MultiFormat, B3SingleFormat
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.jaeger import JaegerPropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from otel_queue_bridge.adapter import Task
from otel_queue_bridge.config import Config
from otel_queue_bridge.propagation import Propagation
from tests.servers import CLOCK

W3C = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
NOWHERE = Context()


class ShopPropagator(TextMapPropagator):
    """A user's own: one field, a format of its own."""

    fields = {"X-Shop"}  # noqa: RUF012 - as users write it

    def inject(self, carrier, context=None, setter=None):
        span = trace.get_current_span(context).get_span_context()
        carrier["X-Shop"] = f"{span.trace_id}/{span.span_id}"

    def extract(self, carrier, context=None, getter=None):
        trace_id, _, span_id = getter.get(carrier, "X-Shop")[0].partition("/")
        return trace.set_span_in_context(span(int(trace_id), int(span_id)), context)


PROPAGATORS = {
    "w3c": TraceContextTextMapPropagator(),
    "w3c and baggage": W3C,
    "b3": B3SingleFormat(),
    "b3multi": B3MultiFormat(),
    "jaeger": JaegerPropagator(),
    "several": CompositePropagator([W3C, B3MultiFormat(), JaegerPropagator()]),
    "own": ShopPropagator(),
}


def span(trace_id: int, span_id: int) -> NonRecordingSpan:
    flags = TraceFlags(TraceFlags.SAMPLED)
    return NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags))


def inside(span_id: int, trace_id: int = 0xABC) -> Context:
    """Return a context in which a span is current, and some baggage."""
    context = trace.set_span_in_context(span(trace_id, span_id), NOWHERE)
    return baggage.set_baggage("tenant", "acme", context)


def propagation(propagator=W3C, **options) -> Propagation:
    return Propagation(Config(propagator=propagator, **options))


def submitted(bridge: Propagation, span_id: int = 7, eta: float | None = None, **carrier) -> dict:
    bridge.submit(carrier, inside(span_id), eta)
    return carrier


def origin(bridge: Propagation, carrier, current: Context = NOWHERE):
    return bridge.origin(Task("mail", "low", carrier=carrier), current)


def ids(context: Context) -> tuple[int, int]:
    found = trace.get_current_span(context).get_span_context()
    return found.trace_id, found.span_id


# Any propagator


@pytest.mark.parametrize("name", PROPAGATORS)
def test_an_execute_finds_the_submit(name):
    bridge = propagation(PROPAGATORS[name])
    assert ids(origin(bridge, submitted(bridge, 7)).context) == (0xABC, 7)


@pytest.mark.parametrize("name", PROPAGATORS)
@pytest.mark.parametrize(
    "travelled",
    [
        lambda carrier: {key.title(): value for key, value in carrier.items()},
        lambda carrier: {key.encode(): value.encode() for key, value in carrier.items()},
        lambda carrier: {key: [value] for key, value in carrier.items()},
        lambda carrier: {key: [value.encode()] for key, value in carrier.items()},
    ],
    ids=["Title-Case", "bytes", "lists", "lists of bytes"],
)
def test_the_trace_is_found_whatever_a_broker_made_of_the_carrier(name, travelled):
    bridge = propagation(PROPAGATORS[name])
    assert ids(origin(bridge, travelled(submitted(bridge, 7))).context) == (0xABC, 7)


@pytest.mark.parametrize("name", PROPAGATORS)
def test_nothing_piles_up_over_retries(name):
    bridge = propagation(PROPAGATORS[name])
    once = submitted(bridge, 1, eta=time.time() + 60, theirs="stays")
    carrier = dict(once)
    for attempt in range(2, 6):
        bridge.hand_over(carrier, inside(100 + attempt))
        bridge.submit(carrier, inside(attempt), time.time() + 60)
    assert carrier.keys() == once.keys()
    assert carrier["theirs"] == "stays"
    assert ids(origin(bridge, carrier).context) == (0xABC, 5)


def test_a_resubmit_replaces_the_trace_of_a_stranger_in_another_case():
    bridge = propagation()
    carrier = submitted(bridge, 7, Traceparent="00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    assert "Traceparent" not in carrier
    assert ids(origin(bridge, carrier).context) == (0xABC, 7)


def test_a_resubmit_forgets_the_plan_of_the_one_before():
    bridge = propagation()
    carrier = submitted(bridge, eta=time.time() + 3600)
    bridge.submit(carrier, inside(8), None)
    assert origin(bridge, carrier).due <= time.time() + CLOCK  # and not in an hour


def test_a_resubmit_forgets_the_baggage_of_the_one_before():
    bridge = propagation(JaegerPropagator())
    carrier = submitted(bridge)
    bridge.submit(carrier, trace.set_span_in_context(span(1, 2), NOWHERE), None)
    assert baggage.get_all(origin(bridge, carrier).context) == {}


def test_a_propagator_that_fails_to_read_means_a_trace_of_its_own():
    bridge = propagation(ShopPropagator())
    assert ids(origin(bridge, {"X-Shop": "garbage"}).context) == (0, 0)


def test_the_global_propagator_may_be_set_after_us():
    code = """if True:
        from opentelemetry import propagate
        from opentelemetry.propagators.b3 import B3SingleFormat
        from tests.test_propagation import propagation, submitted
        bridge = propagation(None)
        assert "traceparent" in submitted(bridge)
        propagate.set_global_textmap(B3SingleFormat())
        carrier = submitted(bridge, traceparent="the other's")
        assert "b3" in carrier
    """
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# Whatever a stranger sent

FIELDS = ["traceparent", "Traceparent", "tracestate", "baggage", "otel-submitted", "otel-planned"]
FIELDS += ["otel-relation", "otel-schedule", "otel-labels"]
OURS = {*map(str.lower, FIELDS), "otel-dispatched"}
TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
keys = st.one_of(
    st.sampled_from(FIELDS),
    st.sampled_from(FIELDS).map(str.encode),
    st.text(),
    st.binary(),
    st.integers(),
    st.none(),
)
values = junk | st.sampled_from([TRACEPARENT, TRACEPARENT.encode(), "1e999", "nan", "-1"])
carriers = st.dictionaries(keys, values, max_size=8)
hostile = carriers | junk
quick = settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def is_ours(key) -> bool:
    """Tell whether a submit takes this key for its own, or the propagator's, in any case."""
    return isinstance(key, str) and key.lower() in OURS


@quick
@given(
    st.none() | carriers,
    st.lists(hostile, max_size=3).map(tuple),
    st.sampled_from(sorted(PROPAGATORS)),
    st.sampled_from(["child", "link", "none"]),
)
def test_no_carrier_can_make_us_raise(carrier, others, name, relation):
    bridge = propagation(PROPAGATORS[name], relation=relation, link_after=1.0)
    task = Task("mail", "low", carrier=carrier, other_carriers=others)
    found = bridge.origin(task, NOWHERE)
    assert found.due is None or abs(found.due) < float("inf")
    bridge.source(task, NOWHERE)
    for other in others:
        bridge.extract(other)


@quick
@given(carriers.map(lambda carrier: {k: v for k, v in carrier.items() if not is_ours(k)}))
def test_junk_beside_it_does_not_hide_the_trace(theirs):
    bridge = propagation()
    carrier = dict(theirs)
    bridge.submit(carrier, inside(7), None)
    assert ids(origin(bridge, carrier).context) == (0xABC, 7)
    assert theirs.items() <= carrier.items()


@pytest.mark.parametrize(
    "carrier",
    [
        {"traceparent": "x" * 1_000_000},
        {"traceparent": [TRACEPARENT] * 10_000, "tracestate": ["a=b"] * 10_000},
        {"tracestate": "a=b," * 250_000, "traceparent": TRACEPARENT},
        {"baggage": "k=v," * 250_000},
        {f"key-{number}": number for number in range(10_000)},
        {"otel-submitted": "9" * 1_000_000},
        {b"\xff\xfe": b"\xff", "traceparent": b"\xff\xfe"},
    ],
    ids=["1 MB", "lists", "state", "baggage", "keys", "number", "bytes"],
)
def test_a_huge_or_broken_carrier_is_survived(carrier):
    found = origin(propagation(), carrier)
    assert ids(found.context) in {(0, 0), (int("a" * 32, 16), int("b" * 16, 16))}


@pytest.mark.parametrize("beside", ["baggage", "tracestate"])
@pytest.mark.parametrize(
    "key",
    [
        "Traceparent",
        pytest.param("TRACEPARENT"),
        pytest.param("TraceParent"),
        pytest.param(b"traceparent"),
    ],
)
def test_a_carrier_of_mixed_case_is_found(key, beside):
    carrier = {key: TRACEPARENT, beside: "tenant=acme"}
    assert ids(origin(propagation(), carrier).context)[1] == int("b" * 16, 16)


@pytest.mark.parametrize("own", [{}, {"theirs": 1}])
def test_where_the_carrier_holds_no_trace_the_first_of_the_others_that_does_is_taken(own):
    bridge = propagation()
    first, second = submitted(bridge, 1), submitted(bridge, 2)
    task = Task("mail", "low", carrier=own, other_carriers=(None, "junk", {}, first, second))
    found = bridge.origin(task, NOWHERE)
    assert ids(found.context)[1] == 1
    assert found.due == bridge.due(task) == float(first["otel-submitted"])


def test_a_carrier_that_holds_a_trace_comes_before_all_others():
    bridge = propagation()
    own, other = submitted(bridge, 1), submitted(bridge, 2)
    task = Task("mail", "low", carrier=own, other_carriers=(other,))
    assert ids(bridge.origin(task, NOWHERE).context)[1] == 1


# Relations


@pytest.mark.parametrize("relation", ["child", "link", "none"])
def test_relation_says_how_the_submit_is_remembered(relation):
    bridge = propagation(relation=relation)
    found = origin(bridge, submitted(bridge, 7))
    parent = (0xABC, 7) if relation == "child" else (0, 0)
    linked = [7] if relation == "link" else []
    assert ids(found.context) == parent
    assert [link.context.span_id for link in found.links] == linked


@pytest.mark.parametrize("relation", ["child", "link", "none"])
def test_baggage_is_readable_under_every_relation_and_behind_a_dispatch(relation):
    bridge = propagation(relation=relation)
    carrier = submitted(bridge)
    arrived = origin(bridge, carrier).context
    assert baggage.get_baggage("tenant", arrived) == "acme"
    bridge.hand_over(carrier, trace.set_span_in_context(span(0xDEF, 8), arrived))
    assert baggage.get_baggage("tenant", origin(bridge, carrier).context) == "acme"


@pytest.mark.parametrize("relation", ["child", "link", "none"])
def test_an_execute_is_the_child_of_its_dispatch_under_every_relation(relation):
    bridge = propagation(relation=relation)
    carrier = submitted(bridge)
    bridge.hand_over(carrier, inside(8, trace_id=0xDEF))
    found = origin(bridge, carrier)
    assert (ids(found.context), found.links) == ((0xDEF, 8), ())


@pytest.mark.parametrize(("delay", "linked"), [(None, False), (50, False), (500, True)])
def test_link_after_links_only_what_is_delayed_longer(delay, linked):
    bridge = propagation(link_after=100)
    eta = None if delay is None else time.time() + delay
    found = origin(bridge, submitted(bridge, 7, eta=eta))
    assert ids(found.context)[1] == (0 if linked else 7)
    assert len(found.links) == linked


@pytest.mark.parametrize("relation", ["child", "link", "none"])
def test_a_task_from_a_stranger_starts_its_own_trace_even_if_something_is_current(relation):
    found = origin(propagation(relation=relation), {"theirs": 1}, current=inside(9))
    assert (ids(found.context), found.links, found.due) == ((0, 0), (), None)


def test_without_a_carrier_an_eager_run_belongs_to_what_is_current():
    assert ids(origin(propagation(), None, current=inside(9)).context)[1] == 9


def test_what_is_left_in_the_carrier_is_a_submits_parent_only_when_nothing_is_current():
    bridge = propagation()
    task = Task("mail", "low", carrier=submitted(bridge, 7))
    assert ids(bridge.source(task, NOWHERE).context)[1] == 7
    assert ids(bridge.source(task, inside(9)).context)[1] == 9


@pytest.mark.parametrize("relation", ["child", "link", "none"])
def test_one_more_run_has_its_own_trace_with_a_link(relation):
    bridge = propagation(relation=relation)
    carrier = submitted(bridge, 7)
    task = Task("mail", "low", carrier=carrier, rerun_of=carrier, eta=time.time() + 60)
    for found in (bridge.source(task, NOWHERE), bridge.origin(task, inside(9))):
        assert ids(found.context) == (0, 0)
        linked = [link.context.span_id for link in found.links]
        assert linked == ([] if relation == "none" else [7])
    assert bridge.origin(task, NOWHERE).due == task.eta
    assert ids(bridge.source(task, inside(9)).context)[1] == 9


@pytest.mark.parametrize("relation", ["child", "link", "none"])
def test_a_batch_has_its_own_trace_with_a_link_to_each_task_that_has_one(relation):
    bridge = propagation(relation=relation)
    carriers = [submitted(bridge, 7), {"headers": "junk"}, submitted(bridge, 8)]
    tasks = [Task("mail", "low", carrier=carrier) for carrier in carriers]
    found = bridge.origin(Task("mail", "low", batch=tasks), inside(9))
    assert ids(found.context) == (0, 0)
    linked = [link.context.span_id for link in found.links]
    assert linked == ([] if relation == "none" else [7, 8])


# What was handed over in this process


@pytest.fixture
def parsed(monkeypatch):
    """The carriers that OpenTelemetry has parsed."""
    carriers = []
    extract = TraceContextTextMapPropagator.extract

    def counted(self, carrier, *args, **kwargs):
        carriers.append(carrier)
        return extract(self, carrier, *args, **kwargs)

    monkeypatch.setattr(TraceContextTextMapPropagator, "extract", counted)
    return carriers


def plainly_inside(span_id: int, **state) -> Context:
    """Return a context with a span and no baggage."""
    flags = TraceFlags(TraceFlags.SAMPLED)
    found = SpanContext(0xDEF, span_id, is_remote=False, trace_flags=flags, **state)
    return trace.set_span_in_context(NonRecordingSpan(found), NOWHERE)


def handed_over(propagator=W3C, context=None) -> tuple[Propagation, dict]:
    """Return a carrier that was handed over just now, and what has handed it over."""
    bridge = propagation(propagator)
    carrier = {"otel-submitted": "1000"}
    state = TraceState([("a", "b")])
    bridge.hand_over(carrier, context or plainly_inside(8, trace_state=state))
    return bridge, carrier


def from_a_broker(carrier: dict) -> dict:
    """Return it as it arrives: equal, and in other strings."""
    return {key: "".join([*value]) for key, value in carrier.items()}


def test_what_is_read_where_it_was_handed_over_is_not_parsed_and_yet_the_same(parsed):
    bridge, carrier = handed_over()
    kept = origin(bridge, dict(carrier))
    assert parsed == []
    read = origin(bridge, from_a_broker(carrier))
    assert len(parsed) == 1
    assert kept.parent == read.parent
    assert kept.parent.is_remote  # samplers may treat a local parent differently
    assert ids(kept.context) == ids(read.context) == (0xDEF, 8)
    assert kept.context.keys() == read.context.keys()
    assert (kept.due, kept.span_id) == (read.due, read.span_id)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("baggage", "tenant=acme"),
        ("tracestate", "a=c"),
        ("traceparent", "00-" + "1" * 32 + "-" + "2" * 16 + "-01"),
    ],
)
def test_what_was_changed_since_is_parsed(field, value):
    bridge, carrier = handed_over()
    written: dict = {}
    W3C.inject(written, origin(bridge, {**carrier, field: value}).context)
    assert written[field] == value


class Particular(CompositePropagator):
    """A user's: it knows better than the carrier."""

    def extract(self, carrier, context=None, getter=None):
        return trace.set_span_in_context(span(0xABC, 9), context)


@pytest.mark.parametrize(
    ("propagator", "context", "found"),
    [
        (W3C, inside(8), 8),  # with baggage
        (Particular([TraceContextTextMapPropagator()]), plainly_inside(8), 9),
        (CompositePropagator([W3C, ShopPropagator()]), plainly_inside(8), 8),
        (ShopPropagator(), plainly_inside(8), 8),
    ],
)
def test_baggage_and_a_users_propagator_are_read_as_they_are(propagator, context, found):
    bridge, carrier = handed_over(propagator, context)
    read = origin(bridge, carrier).context
    assert ids(read)[1] == found
    assert baggage.get_all(read) == baggage.get_all(context)


# Times


@pytest.mark.parametrize("delay", [-60, 0, 60])
def test_a_task_is_due_when_it_was_submitted_or_planned_whichever_is_later(delay):
    bridge = propagation()
    before = time.time() - 1e-3  # the stamp is cut to microseconds
    carrier = submitted(bridge, eta=before + delay)
    after = time.time() + 1e-3
    bridge.hand_over(carrier, inside(8))
    due = origin(bridge, carrier).due
    planned = max(0, delay)
    assert before + planned - 1e-3 <= due <= (after if delay <= 0 else before + planned + 1e-3)


@pytest.mark.parametrize("handed_over", [False, True])
@pytest.mark.parametrize("relation", ["child", "link", "none"])
@pytest.mark.parametrize(
    ("planned", "eta", "due"),
    [(None, 1020.0, 1020.0), (None, 980.0, 1000.0), (1010, 1020.0, 1020.0), (1030, 1020.0, 1030.0)],
)
def test_a_task_that_became_able_to_start_later_is_due_then(
    handed_over, relation, planned, eta, due
):
    """As a job that waits for others: what its submit knew nothing of, its worker reads."""
    bridge = propagation(relation=relation)
    carrier = submitted(bridge) | {"otel-submitted": "1000"}
    if planned is not None:
        carrier["otel-planned"] = str(planned)
    if handed_over:
        bridge.hand_over(carrier, inside(8))
    task = Task("mail", "low", carrier=carrier, eta=eta)
    assert bridge.origin(task, NOWHERE).due == due
    assert bridge.due(task) == due


@pytest.mark.parametrize("carrier", [None, {}, {"otel-submitted": "soon"}])
def test_without_a_submit_there_is_no_wait_to_tell_whatever_the_plan(carrier):
    bridge = propagation()
    task = Task("mail", "low", carrier=carrier, eta=1020.0)
    assert bridge.origin(task, NOWHERE).due is None
    assert bridge.due(task) is None


@pytest.mark.parametrize("stamp", ["", "soon", "nan", "inf", "1e999", None, 5, [], [[]], {}, b"\0"])
def test_a_garbage_time_stamp_is_ignored(stamp):
    bridge = propagation()
    carrier = submitted(bridge, 7)
    real = origin(bridge, carrier).due
    assert origin(bridge, {**carrier, "otel-planned": stamp}).due == real
    found = origin(bridge, {**carrier, "otel-submitted": stamp})
    assert found.due is None
    assert ids(found.context)[1] == 7
