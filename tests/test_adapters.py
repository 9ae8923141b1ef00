"""What holds of every adapter without a broker, each in a process of its own."""

import subprocess
import sys

import pytest

from otel_queue_bridge.instrumentor import adapters
from tests.servers import LIMIT

UNDO = """
import importlib.util, sys
import otel_queue_bridge
from otel_queue_bridge.instrumentor import adapter_named
from opentelemetry.sdk.trace import TracerProvider

def installed(hook):  # some are for an add-on of the library
    package = hook.target.partition(":")[0].partition(".")[0]
    return not hook.optional or importlib.util.find_spec(package) is not None

if sys.argv[1] == "django":  # its parts cannot be imported before
    import django
    from django.conf import settings

    settings.configure(INSTALLED_APPS=["django_tasks_db"])
    django.setup()

hooks = [hook for hook in adapter_named(sys.argv[1]).hooks if installed(hook)]
for hook in hooks:
    for place in (hook.target, *hook.aliases):
        importlib.import_module(place.partition(":")[0])

def family(base):  # all classes whose method a call on one of this kind may end in
    kinds = [base]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    return {above for kind in kinds for above in kind.__mro__ if above is not object}

def places():
    found = {}
    for hook in hooks:
        for target in (hook.target, *hook.aliases):
            module, _, path = target.partition(":")
            *parents, name = path.split(".")
            owner = sys.modules[module]
            for parent in parents:
                owner = getattr(owner, parent)
            for one in family(owner) if hook.overrides else [owner]:
                for attribute in {name, "__init_subclass__"} & vars(one).keys():
                    found[target, one.__name__, attribute] = vars(one)[attribute]
    return found

def differing(one, other):
    return {place for place in {*one, *other} if one.get(place) is not other.get(place)}

before = places()
for _ in range(2):
    otel_queue_bridge.instrument(sys.argv[1], tracer_provider=TracerProvider())
    patched = {target for target, *_ in differing(before, places())}
    missing = {hook.target for hook in hooks if hook.optional} - {target for target, *_ in before}
    found_late = {hook.target for hook in hooks if hook.find}
    every = {place for hook in hooks for place in (hook.target, *hook.aliases)}
    expected = every - missing - found_late
    assert expected <= patched, expected - patched
    otel_queue_bridge.uninstrument()
    assert not differing(before, places())
print(len(patched))
"""

WITHOUT_SDK = """
import sys
sys.modules["opentelemetry.sdk"] = None  # as if it were not installed
import otel_queue_bridge
otel_queue_bridge.instrument(sys.argv[1])
from celery import Celery
app = Celery(broker="memory://")
app.conf.task_ignore_result = True

@app.task
def add(a, b):
    return a + b

add.delay(1, 2)
print(add.apply((1, 2)).get())
"""


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )


@pytest.mark.parametrize("queue", adapters())
def test_every_place_is_restored_exactly(queue: str) -> None:
    result = python(UNDO, queue)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 1


def test_without_an_sdk_installed_nothing_is_missed() -> None:
    result = python(WITHOUT_SDK, "celery")
    assert (result.stdout, result.stderr) == ("3\n", "")
