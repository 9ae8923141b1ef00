"""Each example runs with its one command, shows what its README says, and leaves nothing behind."""

import re
import sys
from pathlib import Path

import pytest

from tests.servers import Processes

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(processes: Processes, example: str, *arguments: str) -> str:
    process = processes.start(
        example, [sys.executable, "run.py", *arguments], cwd=EXAMPLES / example
    )
    assert process.wait(60) == 0, process.log()
    assert process.members() == set()
    return process.log()


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_log_lines_of_every_pool_name_their_trace(processes: Processes, pool: str) -> None:
    log = run(processes, "log_correlation", "-P", pool)
    line = r"\[trace_id=(\w{32}) span_id=(\w{16})\] shop\.(pack|ship): "
    (pack_trace, pack_span, _), (ship_trace, ship_span, _) = re.findall(line, log)
    assert pack_trace == ship_trace
    assert pack_span != ship_span
