"""Forks of a process that exports all the time: no child hangs, and none loses a span."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from otel_queue_bridge.otlp import Receiver
from tests.otlp_grpc import GrpcReceiver
from tests.servers import LIMIT, otel_env, wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

PROGRAM = Path(__file__).parent / "forking_exporter.py"


def forked(receiver, forks, *special, over="grpc"):
    """Run the program; return how many children hung, and how many were late."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", str(PROGRAM), str(forks), over, *special],
        env=os.environ | otel_env(receiver, "forking"),
        check=True,
        capture_output=True,
        text=True,
        timeout=LIMIT * 4,
    )
    return json.loads(run.stdout), run.stderr


def destinations(receiver, forks):
    """Return of which children spans have come, and of which their counts, with the values."""
    children = [f"child {number}" for number in range(forks)]
    spans = Counter(span.attributes.get("messaging.destination.name") for span in receiver.spans())
    counts = {
        (point.attributes.get("messaging.destination.name"), point.value)
        for point in receiver.points()
        if point.metric == "task.submitted"
    }
    return (
        [spans[name] for name in children],
        sorted(value for name, value in counts if name in children),
    )


@pytest.mark.parametrize(
    ("over", "special"),
    [
        ("grpc", ["SDK first"]),
        ("grpc", []),
        ("grpc", ["SDK first", "records"]),
        ("grpc", ["slow observable"]),
        ("http", ["SDK first"]),
        ("http", ["records"]),
        ("http", ["SDK first", "slow observable", "records"]),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value) or "SDK last",
)
def test_a_child_exports_whatever_its_parent_does_meanwhile(over, special):
    forks = 40
    with GrpcReceiver() if over == "grpc" else Receiver() as receiver:
        ends, log = forked(receiver, forks, *special, over=over)
        assert ends == [0, 0], log
        expected = [1] * forks, [1] * forks
        wait_until(lambda: destinations(receiver, forks) == expected)
    assert "queue_bridge" not in log


def test_without_us_children_of_grpc_do_not_export():
    """Else the test above could not fail, and there would be nothing to do."""
    with GrpcReceiver() as receiver:
        for _ in range(5):
            (_, late), _ = forked(receiver, 20, "without us")
            if late:
                return
    pytest.fail("each of 100 children has exported")
