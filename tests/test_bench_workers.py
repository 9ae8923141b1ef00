from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_each_mode_of_a_worker_is_measured():
    """For Dramatiq, which starts soonest; the other queues have the same, and Celery contrib's."""
    table = subprocess.run(
        [sys.executable, "-m", "benchmarks.workers", "--quick", "--queues", "dramatiq"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    rows = [[cell.strip() for cell in line.split("│")] for line in table.splitlines()]
    modes = ["nothing", "SDK alone", "ours", "ours, dispatch_spans=false"]
    assert [row[2] for row in rows if row[1:2] == ["dramatiq"]] == modes
