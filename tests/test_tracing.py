"""How spans come to their ids and arguments."""

import functools
import gc
import weakref

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from otel_queue_bridge.adapter import Adapter, Arguments, Task
from otel_queue_bridge.bridge import Bridge
from otel_queue_bridge.config import load
from otel_queue_bridge.instruments import SCOPE


class Ids(RandomIdGenerator):
    """A generator of the user's."""

    asked = 0

    def generate_span_id(self):
        self.asked += 1
        return super().generate_span_id()


class Sdk:
    def __init__(self):
        self.ids = Ids()
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(id_generator=self.ids)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def bridge(self, **options):
        keywords = {"tracer_provider": self.provider, **options}
        bridge = Bridge(Adapter("fake", (), ()), load(keywords, environment={}))
        assert bridge.active()
        return bridge

    @property
    def spans(self):
        return self.exporter.get_finished_spans()


@pytest.fixture
def sdk():
    return Sdk()


def run_once(bridge):
    """Dispatch a task, and execute it under the id that its dispatch settles."""
    carrier = {}
    dispatch = bridge.dispatch(Task("mail", "low", carrier=carrier))
    dispatch.inject(carrier, once=True)
    dispatch.end()
    bridge.execute(Task("mail", "low", carrier=carrier)).end()
    bridge.execute(Task("other", "low")).end()


def test_many_cycles_on_one_sdk_leave_nothing_in_its_tracer(sdk):
    """The SDK (1.45) shares one tracer per scope: a layer for each cycle would end in a crash."""
    tracer = sdk.provider.get_tracer(SCOPE)
    gone = []
    for _ in range(1200):
        bridge = sdk.bridge()
        run_once(bridge)
        bridge.undo()
        gone.append(weakref.ref(bridge))
        del bridge
    assert len(sdk.spans) == 3 * 1200
    assert len({span.context.span_id for span in sdk.spans}) == 3 * 1200
    for one in (tracer, sdk.provider.get_tracer(SCOPE), sdk.provider):
        assert one.id_generator is sdk.ids
    gc.collect()
    assert [bridge for bridge in gone if bridge() is not None] == []


def test_a_settled_id_is_asked_of_nobody_and_changes_no_tracer(sdk):
    bridge = sdk.bridge()
    run_once(bridge)
    assert sdk.ids.asked == 2, "for the dispatch and the other task"
    with sdk.provider.get_tracer(SCOPE).start_as_current_span("mine"):
        pass
    assert sdk.ids.asked == 3
    bridge.undo()


# Arguments


def mail(to, subject="hello", *more, cc=None, **options):
    """Stand for a task's function."""


class Mailer:
    def send(self, to, **options):
        """Stand for a task that is a method."""


def refuses(to):
    """Stand for a task that takes one argument."""


def found(sdk, listed, *arguments):
    bridge = sdk.bridge(capture_arguments=f"mail:{listed}")
    bridge.execute(Task("mail", "low", arguments=lambda: Arguments(*arguments))).end()
    bridge.undo()
    prefix = "task.argument."
    captured = sdk.spans[-1].attributes.items()
    return {name.removeprefix(prefix): value for name, value in captured if prefix in name}


@pytest.mark.parametrize(
    ("arguments", "captured"),
    [
        ((mail, ("ann",)), {"to": "ann"}),
        ((mail, ("ann", "hi")), {"to": "ann", "subject": "hi"}),
        ((mail, (), {"to": "ann"}), {"to": "ann"}),
        ((mail, ("ann",), {"cc": "bob"}), {"to": "ann", "cc": "bob"}),
        ((mail, ("ann",), {"order": 7, "secret": 1}), {"to": "ann", "order": 7}),
        ((mail, ("ann", "hi", "x", "y")), {"to": "ann", "subject": "hi"}),
        ((functools.partial(mail, "ann"), (), {"order": 7}), {"order": 7}),
        ((Mailer().send, ("ann",), {"order": 7}), {"to": "ann", "order": 7}),
        ((None, ("ann",), {"order": 7}), {"order": 7}),
        ((refuses, ("ann", "too many"), {"order": 7}), {"order": 7}),
        ((print, ("ann",), {"order": 7}), {"order": 7}),
    ],
    ids=[
        *("by position", "two", "by name", "name only", "in kwargs", "in args", "partial"),
        *("method", "no function", "does not fit", "built in"),
    ],
)
def test_arguments_are_found_by_name_however_they_arrive(sdk, arguments, captured):
    assert found(sdk, "to,subject,cc,order", *arguments) == captured
