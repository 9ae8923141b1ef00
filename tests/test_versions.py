"""Versions that nobody tested: refused in one line, or instrumented as far as that is possible."""

import logging
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType

import pytest
from opentelemetry.instrumentation.dependencies import DependencyConflictError
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from otel_queue_bridge import instrument, instrumentor, uninstrument
from otel_queue_bridge.adapter import Adapter, Hook, Variant
from otel_queue_bridge.instrumentor import adapter_named, adapters
from otel_queue_bridge.versions import (
    ALLOW,
    Untested,
    conflict,
    lacking,
    lacking_modules,
    modules,
    range_of,
    required,
)
from tests.servers import LIMIT
from tests.site import Site

SCRIPTS = Path(sysconfig.get_path("scripts"))
QUEUES = sorted(adapters())
SHOW = "from otel_queue_bridge import instrumentor; print(*instrumentor.instrumented())"


def run(code: str, site: Site, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": str(SCRIPTS), "OTEL_METRICS_EXPORTER": "none"}
    environment |= {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}
    environment["OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"] = "celery,fastapi,redis,logging"
    return subprocess.run(
        [SCRIPTS / "opentelemetry-instrument", sys.executable, "-c", code],
        env=environment | site.environment | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT,
    )


@pytest.fixture(params=QUEUES)
def queue(request: pytest.FixtureRequest) -> str:
    try:
        installed_version(request.param)
    except PackageNotFoundError:
        pytest.skip(f"{request.param} is not installed")
    return request.param


@pytest.fixture
def site(queue: str, tmp_path: Path) -> Site:
    """Seem to have a version of the queue's library that will never be."""
    site = Site(tmp_path)
    site.add(queue, "99.0")
    return site


def test_who_does_not_import_the_library_hears_nothing(queue: str, site: Site) -> None:
    ran = run(SHOW, site)
    assert ran.stderr == ""
    assert sorted(ran.stdout.split()) == [name for name in QUEUES if name != queue]


def test_who_imports_it_gets_one_line_that_names_the_way_out(queue: str, site: Site) -> None:
    twice = "import otel_queue_bridge; otel_queue_bridge.instrument()"
    ran = run(f"import {modules(adapter_named(queue))[0]}; {twice}; {SHOW}", site)
    (line,) = ran.stderr.splitlines()
    assert f"{queue} is not instrumented: {queue} 99.0 is outside the tested range" in line
    assert f"{range_of(adapter_named(queue))}; {ALLOW} " in line
    assert queue not in ran.stdout.split()


def test_who_wants_it_has_it_and_one_warning(queue: str, site: Site) -> None:
    allow = dict([ALLOW.split("=")])
    code = f"import {modules(adapter_named(queue))[0]}; {SHOW}"
    ran = run(code, site, **allow)
    (line,) = ran.stderr.splitlines()
    assert line == (
        f"{queue} 99.0 is outside the tested range, {range_of(adapter_named(queue))}; "
        "it is instrumented all the same, as tested ones"
    )
    assert queue in ran.stdout.split()


def test_a_queue_that_is_left_out_is_not_refused(queue: str, site: Site) -> None:
    others = ",".join(name for name in QUEUES if name != queue)
    code = f"import {modules(adapter_named(queue))[0]}"
    assert run(code, site, OTEL_PYTHON_QUEUE_BRIDGE_QUEUES=others).stderr == ""


# The same within one process

LIBRARY = "made_up_library"


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """Return the library of the only adapter, in an untested version."""
    targets = ("{}:there", "{}:gone", "{}.gone:there", "{}:Queue.gone")
    hooks = tuple(Hook(one.format(LIBRARY), lambda *_: None) for one in targets)
    adapter = Adapter("made_up", ("wrapt < 1",), hooks)
    monkeypatch.setattr(instrumentor, "adapters", lambda: ("made_up",))
    monkeypatch.setattr(instrumentor, "adapter_named", lambda _: adapter)
    monkeypatch.setattr(instrumentor, "_INSTRUMENTORS", {})
    monkeypatch.setattr(instrumentor, "_warned", set())
    (tmp_path / LIBRARY).mkdir()
    (tmp_path / LIBRARY / "__init__.py").write_text("def there(): ...\nclass Queue: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, LIBRARY, None)
    del sys.modules[LIBRARY]
    library = import_module(LIBRARY)
    yield library
    uninstrument()


def test_what_an_untested_version_lacks_is_named_in_one_warning(library, caplog) -> None:
    there = library.there
    instrument("made_up", untested_versions=True)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    missing = f"{LIBRARY}:gone, {LIBRARY}:Queue.gone, {LIBRARY}.gone"
    assert record.getMessage().endswith(f"without {missing}, which it lacks")
    assert library.there is not there


def test_an_untested_version_that_is_asked_for_by_name_is_an_error(library, caplog) -> None:
    there = library.there
    with pytest.raises(DependencyConflictError, match="wrapt < 1; OTEL_PYTHON_QUEUE_BRIDGE_UNT"):
        instrument("made_up")
    assert caplog.records == []
    assert library.there is there


def test_an_untested_version_is_refused_once(library, caplog) -> None:
    there = library.there
    for _ in range(2):
        instrument()
    (record,) = caplog.records
    assert "made_up is not instrumented: wrapt " in record.getMessage()
    assert library.there is there


# A library that comes in several packages

CORE = Variant("wrapt >= 1, < 99", "made_up_core", since="1")
BACKPORT = Variant("made-up-backport >= 2", "made_up_backport")


def variants(*found: Variant) -> Adapter:
    return Adapter("made_up", (), (), instruments_any=found)


def test_one_of_several_packages_is_enough() -> None:
    adapter = variants(BACKPORT, CORE)
    assert conflict(adapter) is None
    assert required(adapter) == (CORE.tested,)


def test_a_package_from_before_it_had_the_library_is_none() -> None:
    found = conflict(variants(BACKPORT, CORE._replace(since="98")))
    assert found is not None
    assert found.found is None


def test_all_of_its_packages_that_are_there_must_be_tested() -> None:
    found = conflict(variants(CORE, Variant("pytest < 1", "pytest")))
    assert isinstance(found, Untested)
    assert str(found).startswith("pytest ")
    assert "wrapt >= 1, < 99, pytest < 1" in str(found)


def test_who_does_not_import_a_variant_hears_nothing(library, caplog, monkeypatch) -> None:
    untested = CORE._replace(tested="wrapt < 1", module=f"{LIBRARY}.late")
    monkeypatch.setattr(instrumentor, "adapter_named", lambda _: variants(untested))
    (Path(library.__file__).parent / "late.py").touch()
    instrument()
    assert caplog.records == []
    import_module(untested.module)
    (record,) = caplog.records
    assert "made_up is not instrumented: wrapt " in record.getMessage()


def test_a_module_in_a_namespace_package_is_not_lacking(tmp_path, monkeypatch) -> None:
    (tmp_path / "made_up_place" / "commands").mkdir(parents=True)
    (tmp_path / "made_up_place" / "commands" / "work.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    hooks = (Hook("made_up_place.commands.work:run", lambda *_: None),)
    assert lacking_modules(Adapter("made_up", (), hooks)) == []


def test_a_module_that_needs_settings_is_not_lacking(tmp_path, monkeypatch) -> None:
    (tmp_path / "made_up_needy.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    hooks = (Hook("made_up_needy:run", lambda *_: None),)
    assert lacking(Adapter("made_up", (), hooks)) == []


# The ranges, which adapters hold and other places repeat


def test_the_extras_have_the_ranges_of_the_adapters() -> None:
    extras = {name: [] for name in (*QUEUES, "instruments-any")}
    for requirement in map(Requirement, requires("otel-queue-bridge")):
        for name, found in extras.items():
            wanted = {"extra": name, "python_version": "3.12"}
            if "extra" in str(requirement.marker) and requirement.marker.evaluate(wanted):
                found.append(requirement)
    ranges = {
        range_.name: range_.specifier
        for queue in QUEUES
        for range_ in map(Requirement, adapter_named(queue).tested)
    }
    ranges["django"] = SpecifierSet(">=5.2,<7")  # below 6.0, with the backport
    for queue in QUEUES:
        assert extras[queue]
        for requirement in extras[queue]:
            assert requirement.specifier == ranges[requirement.name]
    anything = {str(requirement).partition(";")[0] for requirement in extras["instruments-any"]}
    assert anything == {*QUEUES} - {"django"} | {"django>=6.0", "django-tasks"}


def test_the_readme_has_the_ranges_of_the_adapters() -> None:
    readme = Path(__file__).parents[1].joinpath("README.md").read_text()
    rows = re.findall(r"^\| \[(?:[\w ]+)\]\(docs/(\w+)\.md\) \| ([^|]*) \|", readme, re.MULTILINE)
    shown = {queue: ranges.replace("`", "") for queue, ranges in rows}
    assert shown == {queue: range_of(adapter_named(queue)) for queue in QUEUES}
