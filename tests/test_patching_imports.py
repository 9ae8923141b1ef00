"""Libraries that are imported while they are patched: each is patched when it is ready, once."""

import importlib
import subprocess
import sys
import textwrap
import threading
from importlib.machinery import ModuleSpec

import pytest
import wrapt.importer

from otel_queue_bridge.adapter import Hook
from otel_queue_bridge.failures import Reports
from otel_queue_bridge.patching import Patches
from tests.servers import LIMIT

NAME = "made_up_later"


class On:
    """The least of a recorder."""

    def active(self):
        return True


def ours(call, recorder):
    yield
    call.result = ["ours", call.result]


HOOK = Hook(f"{NAME}:send", ours)
ONCE = ["ours", "sent"]
"""What `send` returns when it is patched exactly once."""


@pytest.fixture
def patches():
    patches = Patches(On(), Reports("made_up"))
    yield patches
    patches.undo()


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Write the library; the function that is returned writes another text of it."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # files of one second look the same
    monkeypatch.delitem(sys.modules, NAME, raising=False)

    def write(source="", name=NAME):
        text = f"{textwrap.dedent(source)}\ndef send(): return 'sent'\n"
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()

    yield write
    sys.modules.pop(NAME, None)


class Stopped:
    """An import in a thread, that stands still in the middle of its module."""

    def __init__(self, monkeypatch, library, *, fails=False):
        self.begun, self.go_on = threading.Event(), threading.Event()
        monkeypatch.setattr(sys, "stopped", self, raising=False)
        library(
            f"""
            import sys
            sys.stopped.begun.set()
            assert sys.stopped.go_on.wait({LIMIT})
            {"raise RuntimeError('not yet')" if fails else ""}
            """
        )
        self.errors = []
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        assert self.begun.wait(LIMIT)

    def _run(self):
        try:
            importlib.import_module(NAME)
        except RuntimeError as error:
            self.errors.append(error)

    def finish(self):
        self.go_on.set()
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()
        return sys.modules.get(NAME)


def is_clean(module):
    """Tell whether nothing of ours is left in the import system."""
    return (
        NAME not in wrapt.importer._post_import_hooks  # noqa: SLF001 - the registry has no public name
        and type(module.__spec__) is ModuleSpec
        and not any("queue_bridge" in name for name in vars(module.__spec__))
    )


def test_what_another_thread_is_importing_is_patched_when_it_is_ready(
    patches, library, monkeypatch
):
    stopped = Stopped(monkeypatch, library)
    patches.install(HOOK)
    module = stopped.finish()
    assert module.send() == ONCE
    assert is_clean(module)


def test_several_hooks_wait_for_the_same_import(patches, library, monkeypatch):
    stopped = Stopped(monkeypatch, library)
    other = Patches(On(), Reports("other"))
    for one in (patches, other, patches):
        one.install(HOOK)
    module = stopped.finish()
    assert module.send() == ["ours", ["ours", ["ours", "sent"]]]
    assert is_clean(module)
    other.undo()
    patches.undo()
    assert module.send() == "sent"


@pytest.mark.parametrize("stopping", [True, False], ids=["under way", "not begun"])
def test_an_import_that_fails_first_is_patched_when_it_is_tried_again(
    patches, library, monkeypatch, caplog, stopping
):
    if stopping:
        stopped = Stopped(monkeypatch, library, fails=True)
        patches.install(HOOK)
        assert stopped.finish() is None
        assert len(stopped.errors) == 1
    else:
        library("raise RuntimeError('not yet')")
        patches.install(HOOK)
        with pytest.raises(RuntimeError):
            importlib.import_module(NAME)
    library()
    module = importlib.import_module(NAME)
    assert module.send() == ONCE
    assert caplog.records == [], "it is the host's failure, and no report of ours"
    assert is_clean(module)


def test_what_this_very_thread_is_importing_is_patched_when_it_is_ready(
    patches, library, monkeypatch
):
    monkeypatch.setattr(sys, "install", lambda: patches.install(HOOK), raising=False)
    library("import sys\nsys.install()")
    module = importlib.import_module(NAME)
    assert module.send() == ONCE
    assert is_clean(module)


def test_a_module_that_puts_another_in_its_place_is_patched_there(patches, library, monkeypatch):
    """As lazy packages do."""
    monkeypatch.setattr(sys, "install", lambda: patches.install(HOOK), raising=False)
    library(
        """
        import sys, types
        sys.install()
        stand_in = types.ModuleType(__name__)
        stand_in.send = lambda: "sent"
        sys.modules[__name__] = stand_in
        """
    )
    module = importlib.import_module(NAME)
    assert module.send() == ONCE


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_undone_while_it_is_being_imported_it_stays_as_it_is(patches, library, monkeypatch, ends):
    stopped = Stopped(monkeypatch, library, fails=ends == "badly")
    patches.install(HOOK)
    patches.undo()
    stopped.finish()
    library()
    module = importlib.import_module(NAME)
    assert module.send() == "sent"
    assert is_clean(module)


def test_after_undo_nothing_of_ours_stays_in_wrapts_registry(library):
    hooks = wrapt.importer._post_import_hooks  # noqa: SLF001
    theirs = hooks.setdefault(NAME, [])
    theirs.append(print)
    before = {name: tuple(found) for name, found in hooks.items()}
    patches = Patches(On(), Reports("made_up"))
    for name in (NAME, "made_up_never"):
        patches.install(Hook(f"{name}:send", ours, aliases=("made_up_alias:send",)))
        patches.replace(f"{name}:other", print)
    assert {name: tuple(found) for name, found in hooks.items()} != before
    patches.undo()
    patches.install(HOOK)
    assert {name: tuple(found) for name, found in hooks.items()} == before
    del hooks[NAME]


def test_a_module_without_a_spec_is_patched_at_once(patches, monkeypatch):
    """As a program that is run by its path."""
    module = type(sys)(NAME)
    module.__spec__ = None
    module.send = lambda: "sent"
    monkeypatch.setitem(sys.modules, NAME, module)
    patches.install(HOOK)
    assert module.send() == ONCE


RACING = """
import importlib, sys, threading, time, random
from pathlib import Path
from otel_queue_bridge.adapter import Hook
from otel_queue_bridge.failures import Reports
from otel_queue_bridge.patching import Patches

class On:
    def active(self):
        return True

def ours(call, recorder):
    yield
    call.result = ["ours", call.result]

folder = Path(sys.argv[1])
sys.path.insert(0, str(folder))
sys.setswitchinterval(1e-6)
rounds, wrong = int(sys.argv[2]), []
for number in range(rounds):
    (folder / f"raced_{number}.py").write_text("def send(): return 'sent'")
importlib.invalidate_caches()
for number in range(rounds):
    name = f"raced_{number}"
    patches = Patches(On(), Reports("made_up"))
    together = threading.Barrier(3)
    def importing():
        together.wait()
        importlib.import_module(name)
    def installing():
        together.wait()
        time.sleep(random.random() * 1e-3)
        patches.install(Hook(f"{name}:send", ours))
    threads = [threading.Thread(target=work) for work in (importing, importing, installing)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    module = sys.modules[name]
    if module.send() != ["ours", "sent"]:
        wrong.append([number, module.send()])
    patches.undo()
    if module.send() != "sent" or type(module.__spec__).__name__ != "ModuleSpec":
        wrong.append([number, "left"])
print(wrong)
"""


def test_whoever_is_first_of_an_import_and_an_install_it_is_patched_once(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", RACING, str(tmp_path), "300"],
        check=True,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert run.stdout == "[]\n"
