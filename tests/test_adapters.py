"""What holds of every adapter without a broker, each in a process of its own."""

import subprocess
import sys

import pytest

from otel_queue_bridge.instrumentor import adapters
from tests.servers import LIMIT

UNDO = """
import importlib, inspect, sys
import otel_queue_bridge
from otel_queue_bridge.instrumentor import adapter_named
from opentelemetry.sdk.trace import TracerProvider

hooks = adapter_named(sys.argv[1]).hooks
for hook in hooks:
    importlib.import_module(hook.target.partition(":")[0])
    for alias in hook.aliases:
        importlib.import_module(alias.partition(":")[0])

def places():
    for target in [place for hook in hooks for place in (hook.target, *hook.aliases)]:
        module, _, path = target.partition(":")
        if path:
            *parents, name = path.split(".")
            owner = sys.modules[module]
            for parent in parents:
                owner = getattr(owner, parent)
            yield target, inspect.getattr_static(owner, name), name in vars(owner)

before = list(places())
for _ in range(2):
    otel_queue_bridge.instrument(sys.argv[1], tracer_provider=TracerProvider())
    during = list(places())
    assert all(a[1] is not b[1] for a, b in zip(before, during)), "patched"
    otel_queue_bridge.uninstrument()
    for (target, original, own), (_, now, still_own) in zip(before, places()):
        assert now is original and own == still_own, target
print(len(before))
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
