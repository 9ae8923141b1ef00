from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ["nothing", "SDK alone", "ours", "ours, dispatch_spans=false"]


@pytest.mark.parametrize(
    ("queue", "modes"), [("celery", [*OURS, "contrib"]), ("dramatiq", OURS), ("rq", OURS)]
)
def test_each_mode_of_a_worker_is_measured(queue, modes):
    table = subprocess.run(
        [sys.executable, "-m", "benchmarks.workers", "--quick", "--queues", queue],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    rows = [[cell.strip() for cell in line.split("│")] for line in table.splitlines()]
    assert [row[2] for row in rows if row[1:2] == [queue]] == modes
