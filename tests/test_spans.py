# ruff: noqa: SLF001 - what an SDK holds its processors in has no public name
"""Spans of a forked child: the parent exports them as they were, once, or the child does."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    ConcurrentMultiSpanProcessor,
    SpanLimits,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    NoOpTracerProvider,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from otel_queue_bridge import failures
from otel_queue_bridge.forks import spans
from tests.servers import LIMIT

ROOT = Path(__file__).parents[1]
PATIENCE = int(LIMIT)
"""Seconds after which something hangs for good."""


class Pipe:
    """Stands for the relay: keeps what is sent as it arrives, out of JSON."""

    def __init__(self):
        self.sent = []
        self.full = False

    def __call__(self, kind, *arguments):
        line = json.dumps((kind, *arguments))
        if not self.full:
            self.sent.append(json.loads(line))
        return not self.full


class Seeing(SpanProcessor):
    """A user's own, that looks at the spans and has nothing to export."""

    def __init__(self):
        self.started = []
        self.ended = []

    def on_start(self, span, parent_context=None):
        self.started.append(span.name)

    def on_end(self, span):
        self.ended.append(span)


class Fork:
    """A child's provider, and its parent's: of the same processor, at both sides of a fork."""

    def __init__(self, kind=SimpleSpanProcessor, **options):
        self.pipe = Pipe()
        self.seeing = Seeing()
        self.exporter = InMemorySpanExporter()
        self.processor = kind(self.exporter)
        self.child = TracerProvider(resource=Resource({"service.name": "child"}), **options)
        self.child.add_span_processor(self.seeing)
        self.child.add_span_processor(self.processor)
        self.parent = TracerProvider(resource=Resource({"service.name": "parent"}))
        self.parent.add_span_processor(self.processor)
        self.tracer = self.child.get_tracer(
            "shop.mail",
            "1.2",
            schema_url="https://example.org/schema",
            attributes={"team": "Grüße", "on": True, "ports": (1, 2)},
        )
        self.diversion = None

    def divert(self, *others, parents=None):
        """Send on what ends here, as a child does that the parent exports for."""
        self.diversion = spans.Diversion([self.child, *others], parents, self.pipe)

    def undivert(self):
        """Export here again, as a child's child does."""
        if self.diversion is not None:
            self.diversion.undo()

    def all_diverted(self):
        return self.diversion.covers_all()

    def exported(self):
        """Return what the exporter got by now, at whichever side."""
        self.processor.force_flush()
        return self.exporter.get_finished_spans()

    def arrived(self):
        """Let the parent receive all that was sent; return what its exporter got of it."""
        assert self.exported() == ()
        self.undivert()  # the processor is the parent's again
        for kind, *report in tuple(self.pipe.sent):
            assert kind == "span"
            spans.receive([self.parent], *report)
        return self.exported()


@pytest.fixture
def forked():
    made = []

    def make(*arguments, **options):
        made.append(Fork(*arguments, **options))
        made[-1].divert()
        return made[-1]

    yield make
    for fork in made:
        fork.undivert()
        fork.child.shutdown()
        fork.parent.shutdown()


# What arrives is what was sent


def context(number=7, *, remote=True, **state):
    entries = TraceState(list(state.items()))
    return SpanContext(0xABC, number, remote, TraceFlags(TraceFlags.SAMPLED), entries)


def inside(**facts):
    return trace.set_span_in_context(NonRecordingSpan(context(**facts)))


def plain(tracer):
    tracer.start_span("Grüße \U0001f680").end()


def unnamed(tracer):
    tracer.start_span("").end()


def child(tracer):
    with tracer.start_as_current_span("parent"):
        tracer.start_span("child").end()


def child_of_another_process(tracer):
    tracer.start_span("remote", inside(vendor="a:1;b:2", other="x y")).end()


def child_of_this_process(tracer):
    tracer.start_span("local", inside(remote=False)).end()


def of_every_kind(tracer):
    for kind in SpanKind:
        tracer.start_span(kind.name, kind=kind).end()


def at_times_of_its_own(tracer):
    tracer.start_span("times", start_time=1_700_000_000_123_456_789).end(1_700_000_001_987_654_321)


def with_every_status(tracer):
    for status in (
        Status(StatusCode.OK),
        Status(StatusCode.ERROR),
        Status(StatusCode.ERROR, "Fehler: größer\nals erlaubt"),
        Status(StatusCode.ERROR, ""),
    ):
        span = tracer.start_span("status")
        span.set_status(status)
        span.end()


ATTRIBUTES = {
    "text": "größer \U0001f680\n\0",
    "empty": "",
    "Schlüssel": "1",
    "yes": True,
    "no": False,
    "small": -(2**63),
    "large": 2**63 - 1,
    "float": 0.1,
    "whole": 1.0,
    "endless": float("inf"),
    "texts": ("a", "ö", ""),
    "flags": (True, False),
    "ints": (1, -1),
    "floats": (1.0, 2.5),
    "nothing": (),
    "holes": ("a", None),
}


def with_attributes(tracer):
    tracer.start_span("attributes", attributes=ATTRIBUTES).end()


def with_what_is_no_number(tracer):
    tracer.start_span("nan", attributes={"nan": float("nan"), "nans": (float("-inf"),)}).end()


def with_nested_attributes(tracer):
    """SDK 1.45 takes them."""
    nested = {"a": [1, {"b": ("c", 2.5)}], "d": None}
    tracer.start_span("nested", attributes={"nested": nested, "rows": [[1], []]}).end()


def with_events(tracer):
    span = tracer.start_span("events")
    span.add_event("bare")
    span.add_event("größer", ATTRIBUTES, timestamp=1_700_000_000_000_000_001)
    span.record_exception(ValueError("größer"))
    span.end()


def with_links(tracer):
    links = (
        Link(context(1, vendor="a:1"), ATTRIBUTES),
        Link(context(2, remote=False)),
    )
    tracer.start_span("links", links=links).end()


@pytest.mark.parametrize(
    "record",
    [
        plain,
        unnamed,
        child,
        child_of_another_process,
        child_of_this_process,
        of_every_kind,
        at_times_of_its_own,
        with_every_status,
        with_attributes,
        with_what_is_no_number,
        with_nested_attributes,
        with_events,
        with_links,
    ],
)
def test_a_span_arrives_as_it_was(forked, record):
    fork = forked()
    record(fork.tracer)
    assert same(fork) > 0


def same(fork):
    """Compare what arrives with what was sent, but for the resource; return the number of spans."""
    arrived, sent = fork.arrived(), fork.seeing.ended
    assert len(arrived) == len(sent)
    for after, before in zip(arrived, sent, strict=True):
        assert encoded(after) == encoded(before)
        # What OTLP leaves out, another exporter may show.
        assert after.context == before.context
        assert after.parent == before.parent
        assert [link.context for link in after.links] == [link.context for link in before.links]
        assert after.instrumentation_scope == before.instrumentation_scope
        assert after.resource is fork.parent.resource
    return len(sent)


def encoded(span):
    request = encode_spans([span])
    for resource_spans in request.resource_spans:
        resource_spans.ClearField("resource")
    return request.SerializeToString(deterministic=True)  # as messages, NaN would differ from NaN


def test_sequences_are_tuples_again(forked):
    """As the SDK has them: exporters put them into sets and keys."""
    fork = forked()
    with_attributes(fork.tracer)
    with_events(fork.tracer)
    with_links(fork.tracer)
    attributes, events, links = fork.arrived()
    for found in (attributes, events.events[1], links.links[0]):
        assert dict(found.attributes) == ATTRIBUTES
        assert all(type(found.attributes[key]) is type(ATTRIBUTES[key]) for key in ATTRIBUTES)


def test_what_is_no_unicode_is_left_to_the_exporter(forked, caplog):
    """A lone surrogate has no bytes: here it must not raise, nor cost the rest of the span."""
    fork = forked()
    broken = {"broken": "a\ud800b", "fine": "x"}
    span = fork.tracer.start_span("span", attributes=broken)
    span.add_event("event", broken)
    span.end()
    caplog.set_level("CRITICAL")  # the encoder's own words
    assert same(fork) == 1
    (span,) = fork.exported()
    assert dict(span.attributes) == dict(span.events[0].attributes) == broken


def overflowing(tracer):
    links = [Link(context(number), {"a": 1}) for number in (1, 2, 3)]
    span = tracer.start_span("span", links=links, attributes={"a": 1, "b": 2, "c": 3, "d": 4})
    for number in range(5):
        span.add_event(f"event {number}", {"a": 1})
    span.end()


def test_how_much_was_dropped_is_known(forked):
    fork = forked(span_limits=SpanLimits(max_span_attributes=1, max_events=1, max_links=1))
    overflowing(fork.tracer)
    (before,) = fork.seeing.ended
    dropped = (before.dropped_attributes, before.dropped_events, before.dropped_links)
    assert dropped == (3, 4, 2), "there is something to be known"
    assert same(fork) == 1


def test_that_all_was_dropped_is_known(forked):
    fork = forked(span_limits=SpanLimits(max_span_attributes=0, max_events=0, max_links=0))
    overflowing(fork.tracer)
    assert fork.seeing.ended[0].dropped_events == 5
    assert same(fork) == 1


def test_how_much_was_dropped_of_an_event_or_a_link_is_known(forked):
    fork = forked(span_limits=SpanLimits(max_event_attributes=1, max_link_attributes=1))
    values = {"a": 1, "b": 2}
    span = fork.tracer.start_span("span", links=[Link(context(), values)])
    span.add_event("event", values)
    span.end()
    assert span.events[0].dropped_attributes == span.links[0].dropped_attributes == 1
    assert same(fork) == 1


@pytest.mark.parametrize("kind", [SimpleSpanProcessor, BatchSpanProcessor])
def test_both_of_the_sdks_processors_are_stood_in_for(forked, kind):
    fork = forked(kind)
    plain(fork.tracer)
    assert fork.exported() == ()
    assert fork.all_diverted()
    assert same(fork) == 1


def test_each_exporter_gets_each_span_once(forked):
    fork = forked()
    fork.undivert()
    other = InMemorySpanExporter()
    another = SimpleSpanProcessor(other)
    fork.child.add_span_processor(another)
    fork.parent.add_span_processor(another)
    fork.divert()
    plain(fork.tracer)
    assert [len(fork.arrived()), len(other.get_finished_spans())] == [1, 1]


def test_each_provider_gets_its_own(forked):
    """The one that was handed to us, and the global one."""
    one, two = forked(), forked()
    one.undivert()
    two.undivert()
    one.divert(two.child)
    plain(one.tracer)
    child(two.tracer)
    one.undivert()
    for _, *report in tuple(one.pipe.sent):
        spans.receive([one.parent, two.parent], *report)
    assert [span.resource is one.parent.resource for span in one.exported()] == [True]
    assert [span.resource is two.parent.resource for span in two.exported()] == [True, True]


def test_a_span_of_a_processor_that_is_gone_is_nobodys(forked):
    fork = forked()
    plain(fork.tracer)
    ((_, processor_id, packed),) = fork.pipe.sent
    fork.undivert()
    spans.receive([fork.parent, NoOpTracerProvider()], processor_id + 1, packed)
    assert fork.exported() == ()


class Watching(Sampler):
    """Records what it does not sample."""

    def should_sample(self, *_, **__):
        return SamplingResult(Decision.RECORD_ONLY)

    def get_description(self):
        return "Watching"


def test_a_span_that_is_not_sampled_goes_nowhere(forked):
    fork = forked(sampler=Watching())
    plain(fork.tracer)
    assert len(fork.seeing.ended) == 1
    assert fork.pipe.sent == []
    assert fork.exported() == ()
    assert fork.all_diverted()


# What the child exports itself


@pytest.mark.parametrize("where", ["attribute", "event", "link"])
def test_a_span_with_a_value_that_cannot_go_is_exported_by_the_child(forked, where):
    fork, raw = forked(), {"raw": b"\xff"}  # SDK 1.45 takes them
    span = fork.tracer.start_span("raw", links=[Link(context(), raw)] if where == "link" else ())
    if where == "attribute":
        span.set_attributes(raw)
    elif where == "event":
        span.add_event("event", raw)
    span.end()
    plain(fork.tracer)
    assert [span.name for span in fork.exported()] == ["raw"]
    assert len(fork.pipe.sent) == 1
    assert not fork.all_diverted()


@pytest.mark.parametrize("kind", [SimpleSpanProcessor, BatchSpanProcessor])
def test_a_span_that_finds_the_pipe_full_is_exported_by_the_child(forked, kind):
    fork = forked(kind)
    fork.pipe.full = True
    child(fork.tracer)
    fork.pipe.full = False
    plain(fork.tracer)
    assert [span.name for span in fork.exported()] == ["child", "parent"]
    assert [packed[0] for _, _, packed in fork.pipe.sent] == ["Grüße \U0001f680"]
    assert not fork.all_diverted(), "what was kept is still to be exported"


def test_what_the_parent_has_not_is_exported_by_the_child(forked):
    """A processor that was added after the fork."""
    fork = forked()
    fork.undivert()
    fork.divert(parents=frozenset({id(fork.processor) + 1}))
    plain(fork.tracer)
    assert len(fork.exported()) == 1
    assert fork.pipe.sent == []
    assert not fork.all_diverted()


def test_a_provider_that_came_later_has_spans_of_its_own(forked):
    fork, late = forked(), Fork()
    assert fork.diversion.covers_all(fork.child, NoOpTracerProvider())
    assert not fork.diversion.covers_all(late.child)


def test_a_childs_child_exports_again(forked):
    fork = forked()
    child(fork.tracer)
    fork.undivert()
    plain(fork.tracer)
    assert [span.name for span in fork.exported()] == ["Grüße \U0001f680"]
    assert vars(fork.processor).keys() == vars(SimpleSpanProcessor(fork.exporter)).keys()
    assert len(fork.pipe.sent) == 2


class TimeLimit(Exception):  # noqa: N818 - the host's names are the host's
    pass


def test_a_time_limit_that_strikes_on_the_way_to_the_pipe_is_the_jobs(forked):
    def struck(*_):
        raise TimeLimit

    fork = Fork()
    fork.pipe = struck
    fork.divert()
    failures.expect(fork, [f"{__name__}:TimeLimit"])
    try:
        with pytest.raises(TimeLimit):
            fork.child.get_tracer("user").start_span("one").end()
    finally:
        failures.forget(fork)


def test_without_an_sdk_there_is_nothing_to_divert():
    pipe = Pipe()
    providers = [NoOpTracerProvider(), trace.ProxyTracerProvider()]
    diversion = spans.Diversion(providers, frozenset(), pipe)
    trace.NoOpTracer().start_span("span").end()
    diversion.undo()
    assert pipe.sent == []


# What is the user's own


class Derived(SimpleSpanProcessor):
    """Of the SDK's, and yet the user's: it may do anything."""

    def __init__(self, exporter):
        super().__init__(exporter)
        self.started, self.ended = [], []

    def on_start(self, span, parent_context=None):
        self.started.append(span.name)

    def on_end(self, span):
        self.ended.append(span.name)
        super().on_end(span)


class Wrapping(SpanProcessor):
    """Hands on what it has seen to a processor of the SDK's, and holds what that holds."""

    def __init__(self, exporter):
        self.inner = SimpleSpanProcessor(exporter)
        self.started, self.ended = [], []

    def on_start(self, span, parent_context=None):
        self.started.append(span.name)
        self.inner.on_start(span, parent_context)

    def on_end(self, span):
        self.ended.append(span.name)
        self.inner.on_end(span)

    def force_flush(self, timeout_millis=30000):
        return self.inner.force_flush(timeout_millis)


class Exporting(SpanProcessor):
    """Exports at once, so that there is nothing to flush."""

    def __init__(self, exporter):
        self.exporter = exporter
        self.started, self.ended = [], []

    def on_start(self, span, parent_context=None):
        self.started.append(span.name)

    def on_end(self, span):
        self.ended.append(span.name)
        self.exporter.export((span,))


@pytest.mark.parametrize("late", [False, True], ids=["from the start", "added in the child"])
@pytest.mark.parametrize(("kind", "holds"), [(Derived, True), (Wrapping, True), (Exporting, False)])
def test_a_users_own_processor_runs_in_the_child_as_ever(forked, kind, holds, late):
    fork = forked()
    exporter = InMemorySpanExporter()
    own = kind(exporter)
    if not late:
        fork.undivert()
    fork.child.add_span_processor(own)
    if not late:
        fork.divert()
    child(fork.tracer)
    assert own.started == ["parent", "child"]
    assert own.ended == ["child", "parent"]
    assert [span.name for span in exporter.get_finished_spans()] == ["child", "parent"]
    assert len(fork.pipe.sent) == 2
    assert fork.all_diverted() is not holds


class Delegating:
    """Of no kind of the SDK's: whatever it is asked, another answers."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_a_processor_of_no_known_kind_may_hold_spans(forked):
    fork = forked()
    fork.child.add_span_processor(Delegating(SimpleSpanProcessor(InMemorySpanExporter())))
    plain(fork.tracer)
    assert not fork.all_diverted()


# What the SDK does not promise


@pytest.mark.parametrize("kind", [SynchronousMultiSpanProcessor, ConcurrentMultiSpanProcessor])
def test_the_sdk_keeps_its_processors_where_we_look_for_them(kind):
    """If this fails, the SDK has changed: see `spans._processors`."""
    provider = TracerProvider(active_span_processor=kind())
    processors = (SimpleSpanProcessor(InMemorySpanExporter()), Seeing())
    for processor in processors:
        provider.add_span_processor(processor)
    assert provider._active_span_processor._span_processors == processors
    provider.shutdown()


def test_the_sdk_asks_a_processor_for_its_on_end_each_time():
    """If this fails, the SDK has changed: see `spans.Diversion`."""
    provider = TracerProvider()
    tracer = provider.get_tracer("test")
    processor, ended = Seeing(), []
    provider.add_span_processor(processor)
    processor.on_end = ended.append
    tracer.start_span("span").end()
    assert [span.name for span in ended] == ["span"]


# In a process of their own: forks of pytest's would take its threads' locks along.

PREAMBLE = """
import json, os, signal, sys
from functools import partial
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from otel_queue_bridge.forks import lifecycle, relay, spans
from tests.forking import child, reap
exporter = InMemorySpanExporter()
provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
provider.add_span_processor({kind}(exporter))
tracer = provider.get_tracer("test")

class Participant:
    line = diversion = None

    def providers(self):
        return (provider,)

    def enter_child(self, line):
        self.line = line
        if self.diversion is not None:
            self.diversion.undo()
            self.diversion = None

participant = Participant()
lifecycle.join(participant)

def relaying(receive=partial(spans.receive, [provider])):
    return relay.Relay(lambda: {"span": receive}, 20)

opened = relaying()

def record(name, **attributes):
    tracer.start_span(name, attributes=attributes).end()

def exported():
    provider.force_flush()
    return [span.name for span in exporter.get_finished_spans()]

def diverted(*actions):
    # what a child does whose parent exports for it
    def work():
        participant.diversion = spans.Diversion([provider], None, participant.line.send)
        for action in actions:
            action()
    return work

def all_diverted():
    return participant.diversion is not None and participant.diversion.covers_all()

def leave(*result):
    print(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)
"""

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
both = pytest.mark.parametrize("kind", ["SimpleSpanProcessor", "BatchSpanProcessor"])


def scripted(kind, code):
    """Run the preamble and `code`; return what it printed, decoded."""
    run = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-c"),
            PREAMBLE.replace("{kind}", kind) + textwrap.dedent(code),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@forks
@both
def test_the_parent_exports_what_its_children_recorded_as_its_own(kind):
    arrived, resources, scopes = scripted(
        kind,
        """
        read, write = os.pipe()

        def work(number):
            os.close(write)
            os.read(read, 1)  # until all are there: what arrived before would be inherited
            record("first %d" % number)
            record("second %d" % number)
            assert all_diverted()
            assert exported() == [], exported()

        pids = [child(diverted(partial(work, number))) for number in range(4)]
        os.close(write)
        reap(*pids)
        record("own")
        opened.close()
        names = exported()
        found = exporter.get_finished_spans()
        leave(
            sorted(names),
            {span.resource is provider.resource for span in found} == {True},
            {span.instrumentation_scope.name for span in found} == {"test"},
        )
        """,
    )
    children = [f"{name} {number}" for name in ("first", "second") for number in range(4)]
    assert arrived == sorted([*children, "own"])
    assert resources, "the parent's"
    assert scopes


@forks
@both
def test_a_child_that_is_killed_has_handed_over_its_spans(kind):
    assert scripted(
        kind,
        """
        pid = child(diverted(partial(record, "last"), lambda: os.kill(os.getpid(), signal.SIGKILL)))
        os.waitpid(pid, 0)
        opened.close()
        leave(exported())
        """,
    ) == [["last"]]


@forks
@both
def test_a_childs_forked_child_exports_by_itself_again(kind):
    """What a task has forked may outlive all that would export for it."""
    assert scripted(
        kind,
        """
        def grandchild():
            assert not all_diverted()
            record("grandchild")
            assert exported() == ["grandchild"], exported()

        def work():
            record("before")
            reap(child(grandchild))
            record("after")
            assert all_diverted()
            assert exported() == [], exported()

        reap(child(diverted(work)))
        opened.close()
        leave(exported())
        """,
    ) == [["before", "after"]]


@forks
@both
def test_a_span_that_the_pipe_does_not_hold_is_exported_by_the_child(kind):
    assert scripted(
        kind,
        """
        def work():
            record("small")
            record("long", text="n" * 20_000)
            assert all_diverted()
            record("endless", text="n" * 64 * 1024)
            assert not all_diverted()
            assert exported() == ["endless"], exported()

        reap(child(diverted(work)))
        opened.close()
        leave(exported())
        """,
    ) == [["small", "long"]]


@forks
@both
def test_a_child_whose_parent_is_gone_exports_by_itself(kind):
    assert scripted(
        kind,
        """
        import time
        opened.close()
        read, write = os.pipe()

        def orphan():
            while os.getppid() == opener:
                time.sleep(0.01)
            record("late")
            os.write(write, json.dumps([exported(), all_diverted()]).encode())

        def parent():
            global opener
            opener = os.getpid()
            opened = relaying(print)
            child(diverted(orphan))

        reap(child(parent))
        leave(*json.loads(os.read(read, 10_000)))
        """,
    ) == [["late"], False]


# The whole bridge: a child exports what its parent does not

BRIDGED = """
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from otel_queue_bridge.adapter import Adapter
from otel_queue_bridge.config import load
from otel_queue_bridge.bridge import Bridge

opened.close()
lifecycle.leave(participant)
told, tells = os.pipe()

def bridged(work, relays=True, **options):
    # leave what the parent exports, and what the child does, that runs this
    config = load({"flush_timeout": 20, **options}, environment={})
    bridge = Bridge(Adapter("fake", (), (), child_export="relay"), config)
    opened = bridge.relay()
    if not relays:
        opened.close()

    def horse():
        held = work(bridge)
        bridge.flush()
        names = [span.name for span in held.get_finished_spans()]
        os.write(tells, json.dumps(names).encode())

    reap(child(horse))
    opened.close()
    leave(exported(), json.loads(os.read(told, 10_000)))
"""


def bridged(code):
    return scripted("BatchSpanProcessor", BRIDGED + textwrap.dedent(code))


@forks
@pytest.mark.parametrize(
    ("child_export", "parents", "childs"),
    [("relay", ["span"], []), ("own", [], ["span"])],
)
def test_who_exports_is_the_users_choice(child_export, parents, childs):
    assert bridged(f"""
        trace.set_tracer_provider(provider)

        def work(bridge):
            bridge.relay_spans()
            record("span")
            return exporter

        bridged(work, child_export="{child_export}")
    """) == [parents, childs]


@forks
def test_without_a_relay_a_child_exports_by_itself():
    assert bridged("""
        def work(bridge):
            bridge.relay_spans()
            record("span")
            return exporter

        bridged(work, relays=False, tracer_provider=provider)
    """) == [[], ["span"]]


@forks
def test_a_child_that_runs_several_tasks_exports_what_it_has_kept_of_an_earlier_one():
    assert bridged("""
        trace.set_tracer_provider(provider)

        def work(bridge):
            bridge.relay_spans()
            record("endless", text="n" * 64 * 1024)
            bridge.relay_spans()
            record("small")
            return exporter

        bridged(work)
    """) == [["small"], ["endless"]]


@forks
def test_a_provider_that_hides_its_processors_is_flushed():
    """Somebody's own, around the SDK's; or an SDK that keeps them elsewhere."""
    assert bridged("""
        class Hiding(trace.TracerProvider):
            def get_tracer(self, *arguments, **options):
                return provider.get_tracer(*arguments, **options)

            def force_flush(self, timeout_millis=30000):
                return provider.force_flush(timeout_millis)

        trace.set_tracer_provider(Hiding())

        def work(bridge):
            bridge.relay_spans()
            record("span")
            return exporter

        bridged(work)
    """) == [[], ["span"]]


@forks
def test_a_provider_that_comes_with_the_task_is_flushed():
    """Its module, imported in the child, sets up the SDK; the parent only measures."""
    assert bridged("""
        def work(bridge):
            bridge.relay_spans()
            trace.set_tracer_provider(provider)
            record("span")
            return exporter

        bridged(work, meter_provider=MeterProvider())
    """) == [[], ["span"]]


@forks
def test_a_processor_that_was_added_in_the_child_exports_there():
    """As many set up theirs after the fork."""
    assert bridged("""
        trace.set_tracer_provider(provider)

        def work(bridge):
            late = InMemorySpanExporter()
            provider.add_span_processor(BatchSpanProcessor(late))
            bridge.relay_spans()
            record("span")
            return late

        bridged(work)
    """) == [["span"], ["span"]]
