"""Switching it on: which queues, which versions, who else is there, and off again."""

import itertools
import json
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import wrapt
from opentelemetry.instrumentation.dependencies import DependencyConflictError
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.instrumentation.utils import unwrap
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otel_queue_bridge
from otel_queue_bridge import ConfigError, instrument, instrumentor, uninstrument
from otel_queue_bridge.adapter import Adapter, BuiltIn, Hook, Task
from otel_queue_bridge.config import VARIABLE
from otel_queue_bridge.instrumentor import (
    QueueInstrumentor,
    adapters,
    instrumented,
    recording_with,
    resolve_conflicts,
)
from tests import fakelib
from tests.servers import LIMIT

RIVAL = "made_up_rival:Rival"


def submit(call, recorder):
    with recorder.submit(Task(str(call.argument(0, "name")), "default")):
        yield


def adapter(system="fake", *, target="send", requires="wrapt", **more) -> Adapter:
    hooks = (Hook(f"{fakelib.NAME}:{target}", submit),)
    return Adapter(system, (requires,), hooks, **more)


class Point:
    """An entry point, installed by nobody."""

    def __init__(self, name, loaded):
        self.name = name
        self.loaded = loaded

    def load(self):
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


@pytest.fixture
def installed(monkeypatch):
    """Install adapters in place of the real ones; return the mapping to put them into."""
    found = {"fake": adapter()}

    def entry_points(*, group, name=None):
        assert group == "otel_queue_bridge.adapters"
        return [Point(n, a) for n, a in found.items() if name in {None, n}]

    monkeypatch.setattr(instrumentor, "entry_points", entry_points)
    monkeypatch.setattr(instrumentor, "_found", {})
    monkeypatch.setattr(instrumentor, "_INSTRUMENTORS", {})
    monkeypatch.setattr(instrumentor, "_warned", set())
    for variable in [name for name in os.environ if name.startswith(VARIABLE)]:
        monkeypatch.delenv(variable)
    yield found
    uninstrument()


@pytest.fixture
def library(monkeypatch):
    monkeypatch.setitem(sys.modules, fakelib.NAME, None)
    return fakelib.fresh()


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter):
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


@pytest.fixture
def names(library, exporter):
    """Call the library and return the names of the spans that this makes."""

    def call():
        exporter.clear()
        assert library.send("mail") == ("sent", "mail", (), {})
        assert library.Queue().push("mail") == ("pushed", ("mail",), {})
        return [
            f"{span.attributes.get('messaging.system', 'rival')} {span.name}"
            for span in exporter.get_finished_spans()
        ]

    return call


# The package


def test_the_package_tells_its_version_and_nothing_that_it_does_not_have():
    assert otel_queue_bridge.__version__ == version("otel-queue-bridge")
    with pytest.raises(AttributeError, match="'otel_queue_bridge' has no attribute 'nonsense'"):
        otel_queue_bridge.nonsense  # noqa: B018 - reading it is the mistake


# Discovery


def test_the_bundled_adapters_are_found_like_anybodys_and_import_no_library():
    assert "celery" in adapters()
    code = "import sys; from otel_queue_bridge.instrumentor import *\n"
    code += "print([adapter_named(n).system for n in adapters()], 'celery' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "'celery'" in run.stdout
    assert run.stdout.endswith("False\n")


def test_it_is_switched_on_and_off(installed, names, provider, library):
    original = library.send
    assert names() == []
    instrument(tracer_provider=provider)
    assert names() == ["fake submit mail"]
    uninstrument()
    assert names() == []
    assert library.send is original


def test_twice_is_once_and_nothing_to_talk_about(installed, names, provider, library, caplog):
    original = library.send
    instrument(tracer_provider=provider)
    instrument("fake", tracer_provider=provider)
    assert names() == ["fake submit mail"]
    uninstrument()
    uninstrument()
    assert library.send is original
    assert caplog.records == []


def test_after_an_uninstrument_it_can_be_switched_on_with_other_options(installed, names, provider):
    instrument(tracer_provider=provider)
    uninstrument("fake")
    instrument(tracer_provider=provider, naming="system")
    assert names() == ["fake fake.client.submit"]


def test_other_options_for_what_is_instrumented_are_ignored_and_one_line_says_so(
    installed, names, provider, caplog
):
    instrument(tracer_provider=provider, relation="link")
    instrument(tracer_provider=provider, relation="link")
    assert caplog.records == []
    instrument(tracer_provider=provider, relation="none", naming="system", metrics=True)
    assert names() == ["fake submit mail"]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("otel_queue_bridge", logging.WARNING)
    said = record.getMessage()
    assert "fake is instrumented already: " in said
    assert "relation='none'" in said
    assert "naming='system'" in said
    assert "metrics" not in said


@pytest.mark.parametrize(("broken", "other"), [("fake", "other"), ("other", "fake")])
def test_a_queue_gets_its_providers_back_though_another_one_fails(
    installed, names, provider, monkeypatch, broken, other
):
    installed["other"] = adapter("other", target="Queue.push")
    instrument(tracer_provider=provider)
    before = instrumented()
    set_up = QueueInstrumentor.set_up

    def fail_for_one(self, config):
        if config is before[broken]:
            raise RuntimeError(broken)
        set_up(self, config)

    monkeypatch.setattr(QueueInstrumentor, "set_up", fail_for_one)
    with pytest.raises(RuntimeError), recording_with(TracerProvider(), MeterProvider()):
        assert instrumented().keys() == {"fake", "other"}
    assert instrumented() == {other: before[other]}


def test_only_the_queues_asked_for_are_instrumented(installed, names, provider, monkeypatch):
    installed["other"] = adapter("other", target="Queue.push")
    instrument("other", tracer_provider=provider)
    assert [name.split()[0] for name in names()] == ["other"]
    uninstrument()
    monkeypatch.setenv(VARIABLE + "QUEUES", "fake")
    instrument(tracer_provider=provider)
    assert [name.split()[0] for name in names()] == ["fake"]
    uninstrument("other")
    assert [name.split()[0] for name in names()] == ["fake"]


def test_a_queue_that_the_option_leaves_out_is_left_alone_by_the_loader(
    installed, names, provider, monkeypatch
):
    monkeypatch.setenv(VARIABLE + "QUEUES", "celery,rq")
    loaded("fake").instrument(skip_dep_check=True, tracer_provider=provider)
    assert names() == []


STRANGER = """
from otel_queue_bridge.adapter import Adapter, Hook, Task

def submit(call, recorder):
    with recorder.submit(Task(call.args[0], "default")):
        yield

adapter = Adapter("stranger", ("stranger-queue",), (Hook("stranger_queue:send", submit),))
"""

USING_IT = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import otel_queue_bridge

otel_queue_bridge.instrument("stranger")
exporter = InMemorySpanExporter()
trace.set_tracer_provider(TracerProvider())
trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
import stranger_queue
stranger_queue.send("mail")
otel_queue_bridge.uninstrument()
stranger_queue.send("mail")
print([span.name for span in exporter.get_finished_spans()])
"""


def test_a_strangers_adapter_is_installed_by_its_entry_point_alone(tmp_path):
    (tmp_path / "stranger_queue.py").write_text("def send(name): pass")
    (tmp_path / "stranger_bridge.py").write_text(STRANGER)
    info = tmp_path / "stranger_queue-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger-queue\nVersion: 1.0\n")
    points = "[otel_queue_bridge.adapters]\nstranger = stranger_bridge:adapter\n"
    (info / "entry_points.txt").write_text(points)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", USING_IT],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert run.stdout == "['submit mail']\n"


def test_a_strangers_own_instrumentor_and_the_call_in_code_are_one(installed, names, provider):
    class Stranger(QueueInstrumentor):
        """Needed for the entry point of `opentelemetry-instrument`."""

        queue = "fake"

    Stranger().instrument(skip_dep_check=True, tracer_provider=provider)
    try:
        instrument(tracer_provider=provider)
        assert names() == ["fake submit mail"]
    finally:
        uninstrument()
        Stranger().uninstrument()


def test_a_broken_adapter_of_a_stranger_does_not_silence_the_others(installed, names, provider):
    installed.clear()
    installed.update(broken=ImportError("not for this version"), fake=adapter())
    try:
        instrument(tracer_provider=provider)
        assert names() == ["fake submit mail"]
    finally:
        del installed["broken"]


# What is wrong


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_an_unknown_queue_is_named_and_the_known_ones_with_it(installed, names, monkeypatch, by):
    if by == "variable":
        monkeypatch.setenv(VARIABLE + "QUEUES", "fake,celry")
    place = r"instrument\(\)" if by == "argument" else f"{VARIABLE}QUEUES"
    with pytest.raises(ConfigError, match=f"{place} names 'celry': allowed are .*fake"):
        instrument(*(["fake", "celry"] if by == "argument" else []))
    assert names() == []


def test_an_unknown_queue_is_an_error_for_uninstrument_too(installed, names, provider):
    instrument(tracer_provider=provider)
    with pytest.raises(ConfigError, match=r"uninstrument\(\) names 'celry': allowed are .*fake"):
        uninstrument("fake", "celry")
    assert names() == ["fake submit mail"]


def test_a_misspelt_variable_is_one_warning_and_nothing_else_changes(
    installed, names, provider, monkeypatch, caplog
):
    installed["other"] = adapter("other", target="Queue.push")
    monkeypatch.setenv(VARIABLE + "NAMNG", "system")
    for _ in range(2):
        instrument(tracer_provider=provider)
        assert names() == ["fake submit mail", "other submit mail"]
        uninstrument()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"{VARIABLE}NAMNG does not exist; did you mean {VARIABLE}NAMING?"


@pytest.mark.parametrize("requires", ["no-such-library", "wrapt < 0.1"])
def test_a_library_that_is_not_there_is_an_error_if_asked_for_and_skipped_else(
    installed, names, provider, requires
):
    installed["missing"] = adapter("missing", requires=requires)
    with pytest.raises(DependencyConflictError, match=requires.split()[0]):
        instrument("missing", tracer_provider=provider)
    assert names() == []
    instrument(tracer_provider=provider)
    assert names() == ["fake submit mail"]


def test_the_loader_is_told_that_one_library_of_many_is_not_there(installed, names):
    """It has checked for any of ours only, and treats this error as nothing to instrument."""
    installed["fake"] = adapter(requires="no-such-library")
    with pytest.raises(DependencyConflictError):
        loaded("fake").instrument(skip_dep_check=True)
    assert names() == []


def loaded(queue: str) -> QueueInstrumentor:
    """Return the instrumentor that `opentelemetry-instrument` loads for a bundled queue."""
    return instrumentor._instrumentor(queue)  # noqa: SLF001 - for celery it is the entry point's


def test_a_bad_variable_is_an_error_in_code(installed, names, provider, monkeypatch):
    monkeypatch.setenv(VARIABLE + "NAMING", "nonsense")
    for call in (instrument, loaded("fake").instrument):
        with pytest.raises(ConfigError, match=VARIABLE + "NAMING is 'nonsense'"):
            call(tracer_provider=provider)
    assert names() == []
    monkeypatch.delenv(VARIABLE + "NAMING")
    instrument(tracer_provider=provider)
    assert names() == ["fake submit mail"]


def test_a_bad_variable_is_logged_under_the_loader_and_the_queue_runs_on(
    installed, names, provider, monkeypatch, caplog
):
    monkeypatch.setenv(VARIABLE + "NAMING", "nonsense")
    loaded("fake").instrument(skip_dep_check=True, tracer_provider=provider)
    assert names() == []
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("otel_queue_bridge", logging.ERROR)
    for part in ("no queue", VARIABLE + "NAMING", "'nonsense'", "allowed"):
        assert part in record.getMessage()


def test_a_bad_variable_is_said_once_for_all_queues(installed, names, monkeypatch, caplog):
    installed["other"] = adapter("other", target="Queue.push")
    monkeypatch.setenv(VARIABLE + "QUEUES", "celry")
    for queue in ("fake", "other"):
        loaded(queue).instrument(skip_dep_check=True)
    assert names() == []
    (record,) = caplog.records
    assert record.getMessage().startswith(f"no queue is instrumented: {VARIABLE}QUEUES names")


def test_what_is_no_tracer_provider_does_not_break_the_host(installed, names):
    try:
        instrument(tracer_provider="otlp")
    except ConfigError:
        return
    assert names() == []


@pytest.mark.parametrize("when", ["on_start", "on_end"])
def test_a_span_processor_that_fails_does_not_reach_the_host(
    installed, library, provider, caplog, when
):
    def exchange(call, recorder):
        carrier = {"traceparent": f"00-{7:032x}-{7:016x}-01"}
        exchange = recorder.exchange("request", [carrier], {})
        yield
        exchange.close()

    def fail(*_, **__):
        raise fakelib.Boom

    failing = SpanProcessor()
    setattr(failing, when, fail)
    provider.add_span_processor(failing)
    exchanging = Hook(f"{fakelib.NAME}:Queue.push", exchange)
    installed["fake"] = adapter()._replace(hooks=(*adapter().hooks, exchanging))
    instrument(tracer_provider=provider)
    for _ in range(2):
        assert library.send("mail") == ("sent", "mail", (), {})
        assert library.Queue().push("mail") == ("pushed", ("mail",), {})
    submitting, pushing = [record.getMessage() for record in caplog.records]
    assert f"Boom at {fakelib.NAME}:send;" in submitting
    assert f"Boom at {fakelib.NAME}:Queue.push;" in pushing


# A library's own switch

SWITCH = "FAKE_ENABLED"


@pytest.fixture
def switch(installed, monkeypatch):
    """Give the fake adapter a switch; return a function that sets it."""
    installed["fake"] = adapter(switch=SWITCH)
    monkeypatch.delenv(SWITCH, raising=False)
    return lambda word: monkeypatch.setenv(SWITCH, word)


def test_a_library_that_is_switched_off_stays_off_also_if_it_is_named(switch, names, provider):
    switch("false")
    instrument("fake", tracer_provider=provider)
    instrument(tracer_provider=provider)
    loaded("fake").instrument(skip_dep_check=True, tracer_provider=provider)
    assert names() == []
    switch("true")
    instrument("fake", tracer_provider=provider)
    assert names() == ["fake submit mail"]


@pytest.mark.parametrize("word", ["", "true"])
@pytest.mark.parametrize("by", ["loader", "code"])
def test_a_library_that_is_switched_on_is_instrumented_whatever_the_variable_lists(
    switch, installed, names, provider, monkeypatch, word, by
):
    installed["other"] = adapter("other", target="Queue.push")
    monkeypatch.setenv(VARIABLE + "QUEUES", "other")
    switch(word)
    if by == "code":
        instrument(tracer_provider=provider)
    else:
        for queue in ("fake", "other"):
            loaded(queue).instrument(skip_dep_check=True, tracer_provider=provider)
    fake = ["fake submit mail"] if word else []
    assert names() == [*fake, "other submit mail"]


def test_a_library_that_is_switched_on_is_left_alone_where_code_names_another(
    switch, installed, names, provider
):
    installed["other"] = adapter("other", target="Queue.push")
    switch("true")
    instrument("other", tracer_provider=provider)
    assert names() == ["other submit mail"]


@pytest.mark.parametrize("queues", [(), ("fake",)])
def test_a_switch_with_another_word_is_an_error_in_code(switch, names, provider, queues):
    switch("perhaps")
    with pytest.raises(ConfigError, match=f"{SWITCH} is 'perhaps': allowed are true and false"):
        instrument(*queues, tracer_provider=provider)
    assert names() == []


def test_a_bad_switch_leaves_nothing_instrumented(switch, installed, names, provider):
    installed.clear()
    installed.update(other=adapter("other", target="Queue.push"), fake=adapter(switch=SWITCH))
    switch("perhaps")
    with pytest.raises(ConfigError):
        instrument(tracer_provider=provider)
    assert (names(), instrumentor.instrumented()) == ([], {})


@pytest.mark.parametrize("loader", ["skip_dep_check", "raise_exception_on_conflict"])
def test_a_switch_with_another_word_is_logged_under_the_loader(
    switch, names, provider, caplog, loader
):
    switch("perhaps")
    loaded("fake").instrument(**{loader: True}, tracer_provider=provider)
    assert names() == []
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert f"fake is not instrumented: {SWITCH} is 'perhaps'" in record.getMessage()


# What a library records itself

TELEMETRY = "FAKE_TELEMETRY"


class Theirs:
    """The telemetry that the fake library has itself, and what it recorded."""

    def __init__(self, library):
        self.recorded = []
        self._library = library
        library.record, library.operation = self._record, self._operation
        self._functions = self._found()

    def _record(self, event, **_):
        self.recorded.append(event)

    @contextmanager
    def _operation(self, name, attributes=None):
        self.recorded.append(name)
        yield self

    def _found(self):
        return [vars(self._library)[name] for name in ("record", "operation")]

    def untouched(self):
        found = zip(self._found(), self._functions, strict=True)
        return all(now is before for now, before in found)

    def run(self):
        """Run as the library does; return what was recorded."""
        self.recorded.clear()
        with self._library.operation("run", attributes={"id": 1}):
            self._library.record("completed", duration_ms=2.5)
        return self.recorded


@pytest.fixture
def theirs(installed, library, monkeypatch):
    functions = tuple(f"{fakelib.NAME}:{name}" for name in ("record", "operation"))
    installed["fake"] = adapter(built_in=BuiltIn(TELEMETRY, ("true", "1"), functions))
    monkeypatch.delenv(TELEMETRY, raising=False)
    return Theirs(library)


def test_what_a_library_records_itself_is_replaced_and_one_line_says_so(
    theirs, library, names, provider, monkeypatch, caplog
):
    monkeypatch.setenv(TELEMETRY, "True")
    assert theirs.run() == ["run", "completed"]
    loaded("fake").instrument(skip_dep_check=True, tracer_provider=provider)
    resolve_conflicts()
    assert names() == ["fake submit mail"]
    assert theirs.run() == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for part in (f"replaced its own telemetry ({TELEMETRY})", "conflicts=yield", "fake"):
        assert part in record.getMessage()
    uninstrument()
    assert theirs.untouched()
    assert theirs.run() == ["run", "completed"]


def test_an_error_inside_what_is_replaced_passes(theirs, library, provider, monkeypatch):
    monkeypatch.setenv(TELEMETRY, "1")
    instrument(tracer_provider=provider)
    with pytest.raises(fakelib.Boom), library.operation("run") as span:
        raise fakelib.Boom
    assert span is None


def test_a_library_may_be_left_to_what_it_records_itself(
    theirs, names, provider, monkeypatch, caplog
):
    monkeypatch.setenv(TELEMETRY, "1")
    instrument(tracer_provider=provider, conflicts="yield")
    assert names() == []
    assert theirs.run() == ["run", "completed"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    told = f"fake is left to its own telemetry ({TELEMETRY}), as conflicts=yield wants it"
    assert record.getMessage() == told


@pytest.mark.parametrize("value", ["", "false", "yes", " true"])
@pytest.mark.parametrize("conflicts", ["replace", "yield"])
def test_what_a_library_does_not_record_is_no_conflict(
    theirs, names, provider, monkeypatch, caplog, value, conflicts
):
    monkeypatch.setenv(TELEMETRY, value)
    instrument(tracer_provider=provider, conflicts=conflicts)
    assert names() == ["fake submit mail"]
    assert theirs.untouched()
    assert caplog.records == []


# Rivals


class Rival(BaseInstrumentor):
    """Records the same tasks, as contrib's instrumentors do."""

    library = None
    tracer = None
    path = "Queue.push"  # elsewhere than we do

    def instrumentation_dependencies(self):
        return ()

    def _instrument(self, **_):
        def wrapper(wrapped, instance, args, kwargs):
            with self.tracer.start_as_current_span("rival"):
                return wrapped(*args, **kwargs)

        wrapt.wrap_function_wrapper(self.library, self.path, wrapper)

    def _uninstrument(self, **_):
        owner, _, attribute = self.path.rpartition(".")
        unwrap(getattr(self.library, owner) if owner else self.library, attribute)


@pytest.fixture
def rival(installed, library, provider, monkeypatch):
    """The rival of the fake adapter, not yet switched on."""
    rival = type("Rival", (Rival,), {"library": library, "tracer": provider.get_tracer("rival")})
    module = ModuleType("made_up_rival")
    module.Rival = rival
    monkeypatch.setitem(sys.modules, module.__name__, module)
    installed["fake"] = adapter(rivals=(RIVAL,))
    return rival()


def both(rival, order, **options):
    """Switch both on in this order, as the loader does, and settle."""
    if order == "rival first":
        rival.instrument()
    loaded("fake").instrument(skip_dep_check=True, **options)
    if order == "rival last":
        rival.instrument()
    resolve_conflicts()


@pytest.mark.parametrize("order", ["rival first", "rival last"])
@pytest.mark.parametrize(
    ("conflicts", "expected"), [("replace", "fake submit mail"), ("yield", "rival rival")]
)
def test_of_two_that_record_the_same_one_is_left_and_one_line_says_so(
    rival, names, provider, caplog, order, conflicts, expected
):
    both(rival, order, tracer_provider=provider, conflicts=conflicts)
    assert names() == [expected]
    ours = [record for record in caplog.records if record.name == "otel_queue_bridge"]
    (record,) = ours
    assert record.levelno == logging.WARNING
    assert RIVAL in record.getMessage()
    assert "conflicts=yield" in record.getMessage()


@pytest.mark.parametrize("order", ["rival first", "rival last"])
def test_a_rival_that_wraps_the_same_function_is_replaced(rival, names, provider, order):
    type(rival).path = "send"
    both(rival, order, tracer_provider=provider)
    assert names() == ["fake submit mail"]


def test_a_rival_that_is_off_is_no_conflict(rival, names, provider, caplog):
    loaded("fake").instrument(skip_dep_check=True, tracer_provider=provider)
    resolve_conflicts()
    assert names() == ["fake submit mail"]
    assert caplog.records == []


def test_a_rival_that_was_never_imported_is_not_imported_by_us(
    installed, names, provider, monkeypatch, tmp_path, caplog
):
    (tmp_path / "unused_rival.py").write_text("class Rival: pass")
    monkeypatch.syspath_prepend(tmp_path)
    installed["fake"] = adapter(rivals=("unused_rival:Rival",))
    instrument(tracer_provider=provider)
    assert names() == ["fake submit mail"]
    assert "unused_rival" not in sys.modules
    assert caplog.records == []


def test_settling_again_says_nothing(rival, provider, caplog):
    both(rival, "rival first", tracer_provider=provider)
    caplog.clear()
    resolve_conflicts()
    assert caplog.records == []


# Many threads


@pytest.fixture
def hasty():
    """Have threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def awaited(coroutine):
    """Run a coroutine that waits for nothing."""
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    return ended.value.value


def at_once(*works, times=1):
    """Run each in as many threads, which begin together; raise what one of them raised."""
    together = threading.Barrier(len(works) * times)

    def run(work):
        together.wait(LIMIT)
        return work()

    with ThreadPoolExecutor(len(works) * times) as threads:
        for ended in [threads.submit(run, work) for work in works * times]:
            ended.result()


SHAPES = [
    *("send", "send_soon", "fail"),
    *("Queue.push", "Queue.push_soon", "Queue.named", "Queue.limited"),
]


@pytest.fixture
def shapes(installed, library):
    """Have every shape of function patched; return what tells what stands there."""

    class Worker:
        def work(self, name):
            return "worked", name

    class FastWorker(Worker):
        def work(self, name):
            return "fast", *super().work(name)

    library.Worker, library.FastWorker = Worker, FastWorker
    hooks = tuple(Hook(f"{fakelib.NAME}:{path}", submit) for path in SHAPES)
    overridden = Hook(f"{fakelib.NAME}:Worker.work", submit, overrides=True)
    installed["fake"] = installed["fake"]._replace(hooks=(*hooks, overridden))
    owners = (library, library.Queue, Worker, FastWorker)
    return lambda: [dict(vars(owner)) for owner in owners]


def test_switched_on_and_off_by_many_threads_it_is_one_layer_and_undone_exactly(
    rival, shapes, names, provider, hasty, monkeypatch
):
    monkeypatch.setattr(type(rival), "_instrument", lambda self, **_: None)
    monkeypatch.setattr(type(rival), "_uninstrument", lambda self, **_: None)
    before = shapes()
    assert instrumentor.adapter_named("fake").rivals

    def switch():
        for _ in range(50):
            instrument(tracer_provider=provider)
            resolve_conflicts()
            uninstrument()

    def rival_comes():
        for _ in range(50):
            rival.instrument()
            resolve_conflicts()

    def switched_on():
        for _ in range(50):
            instrument(tracer_provider=provider)

    at_once(switch, switched_on, rival_comes, times=5)
    instrument(tracer_provider=provider)
    assert names() == ["fake submit mail"] * 2
    uninstrument()
    assert shapes() == before
    assert instrumentor.instrumented() == {}


def test_what_64_threads_submit_is_neither_lost_nor_changed_while_others_switch_us_on_and_off(
    shapes, library, provider, exporter, hasty, caplog
):
    before, done, ran = shapes(), threading.Event(), []
    queue, worker = library.Queue(), library.FastWorker()

    def submit_all():
        names, name = (f"{threading.get_ident()}.{number}" for number in itertools.count()), ""
        while not (done.is_set() and name):
            name = next(names)
            assert library.send(name, 1, a=2) == ("sent", name, (1,), {"a": 2})
            for call, result in (
                (queue.push, "pushed"),
                (queue.named, "named"),
                (queue.limited, "limited"),
                (lambda *args, **options: awaited(queue.push_soon(*args, **options)), "pushed"),
            ):
                name = next(names)
                assert call(name, a=2) == (result, (name,), {"a": 2})
            name = next(names)
            assert awaited(library.send_soon(name)) == ("sent", name, (), {})
            name = next(names)
            assert worker.work(name) == ("fast", "worked", name)
            error = fakelib.Boom(next(names))
            with pytest.raises(fakelib.Boom) as raised:
                library.fail(error)
            assert raised.value is error
        ran.append(name)

    def switch():
        for _ in range(10):
            instrument(tracer_provider=provider)
            uninstrument()
        done.set()

    at_once(*[submit_all] * 64, *[switch] * 4)
    assert len(ran) == 64
    assert shapes() == before
    recorded = Counter(span.name for span in exporter.get_finished_spans())
    assert set(recorded.values()) == {1}, "a call is one span at most"
    assert caplog.records == []


DECLARED = """
file_format: "1.0"
propagator:
  composite: [{tracecontext: {}}]
instrumentation/development:
  python:
    queue_bridge_celery:
      relation: link
      excluded_tasks: ["a.*", b]
      capture_arguments: {mail: [to]}
"""

SHOW = """
from otel_queue_bridge import instrumentor
config = instrumentor._bridges["celery"].config
print(config.relation, config.naming, config.excluded_tasks, dict(config.capture_arguments))
"""


def test_options_come_from_a_declarative_configuration(tmp_path):
    pytest.importorskip("opentelemetry.configuration")
    file = tmp_path / "otel.yaml"
    file.write_text(DECLARED)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    environment |= {
        "OTEL_CONFIG_FILE": str(file),
        "OTEL_PYTHON_QUEUE_BRIDGE_NAMING": "system",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery",
    }
    script = Path(sys.executable).parent / "opentelemetry-instrument"
    result = subprocess.run(
        [str(script), sys.executable, "-c", SHOW],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "link system ('a.*', 'b') {'mail': frozenset({'to'})}\n", result.stderr


UNDONE = """
import importlib, json, sys
import wrapt
import otel_queue_bridge

OWNERS = {
    "fastworker.tasks.models": ("Task", "TaskResult"),
    "fastworker.clients.client": ("Client",),
    "fastworker.patterns.nng_patterns": ("ReqRepPattern",),
    "fastworker.workers.worker": ("Worker",),
    "fastworker.workers.control_plane": ("ControlPlaneWorker",),
    "fastworker.workers.subworker": ("SubWorker",),
}
before = {}

def anatomy(module):
    owners = {name: getattr(module, name) for name in OWNERS[module.__name__]}
    owners[module.__name__] = module
    found = [(name, vars(owner)) for name, owner in owners.items()]
    return {f"{name}.{key}": value for name, held in found for key, value in held.items()}

def differing():
    now, missing = {}, object()
    for module in OWNERS:
        now |= anatomy(importlib.import_module(module))
    names = sorted({*before, *now})
    return [name for name in names if before.get(name, missing) is not now.get(name, missing)]

for module in OWNERS:  # before anybody else sees it
    wrapt.register_post_import_hook(lambda found: before.update(anatomy(found)), module)
if sys.argv[1] == "imported before":
    assert differing() == []
otel_queue_bridge.instrument("fastworker")
changed = differing()
otel_queue_bridge.uninstrument("fastworker")
print(json.dumps([changed, differing()]))
"""


@pytest.mark.skipif(not find_spec("fastworker"), reason="FastWorker needs Python 3.12")
@pytest.mark.parametrize("when", ["imported before", "imported after"])
def test_nothing_is_left_in_fastworker(when):
    run = subprocess.run(
        [sys.executable, "-c", UNDONE, when],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "FASTWORKER_TELEMETRY_ENABLED": "true"},
    )
    changed, left = json.loads(run.stdout)
    recording = {
        f"fastworker.{module}.{function}"
        for module in ("clients.client", "workers.worker")
        for function in ("trace_operation", "record_task_metric")
    }
    assert recording == {name for name in changed if name.startswith("fastworker.")}
    assert {name.partition(".")[0] for name in set(changed) - recording} == {
        *("Task", "TaskResult", "Client", "ReqRepPattern"),
        *("Worker", "ControlPlaneWorker", "SubWorker"),
    }
    assert left == []
