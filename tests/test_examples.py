"""Each example runs with its one command and shows what its README says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(example: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "run.py", *arguments],
        cwd=EXAMPLES / example,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=60,
    ).stdout


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_log_lines_of_every_pool_name_their_trace(pool: str) -> None:
    log = run("log_correlation", "-P", pool)
    line = r"\[trace_id=(\w{32}) span_id=(\w{16})\] shop\.(pack|ship): "
    (pack_trace, pack_span, _), (ship_trace, ship_span, _) = re.findall(line, log)
    assert pack_trace == ship_trace
    assert pack_span != ship_span
