"""Switching it on: which queues, which versions, who else is there, and off again."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import wrapt
from opentelemetry.instrumentation.dependencies import DependencyConflictError
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.instrumentation.utils import unwrap
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_queue_bridge import ConfigError, instrument, instrumentor, uninstrument
from otel_queue_bridge.adapter import Adapter, Hook, Task
from otel_queue_bridge.config import VARIABLE
from otel_queue_bridge.instrumentor import QueueInstrumentor, adapters, settle_conflicts
from tests import fakelib

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
    monkeypatch.setattr(instrumentor, "_INSTRUMENTORS", {})
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
    with pytest.raises(ConfigError, match=r"'celry'.*fake"):
        instrument(*(["fake", "celry"] if by == "argument" else []))
    assert names() == []


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


@pytest.mark.parametrize("requires", ["no-such-library", "wrapt < 0.1"])
def test_the_loader_is_told_that_one_library_of_many_is_not_there(installed, names, requires):
    """It has checked for any of ours only, and treats this error as nothing to instrument."""
    installed["fake"] = adapter(requires=requires)
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
    for part in ("fake", VARIABLE + "NAMING", "'nonsense'", "allowed"):
        assert part in record.getMessage()


def test_what_is_no_tracer_provider_does_not_break_the_host(installed, names):
    try:
        instrument(tracer_provider="otlp")
    except ConfigError:
        return
    assert names() == []


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
    settle_conflicts()


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
    settle_conflicts()
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
    settle_conflicts()
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
