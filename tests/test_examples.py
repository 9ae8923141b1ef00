"""Each example runs with its one command, shows what its README says, and leaves nothing behind."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.servers import Processes, absent

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(processes: Processes, example: str, *arguments: str) -> str:
    process = processes.start(
        example, [sys.executable, "run.py", *arguments], cwd=EXAMPLES / example
    )
    assert process.wait() == 0, process.log()
    assert process.members() == set()
    return process.log()


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_log_lines_of_every_pool_name_their_trace(processes: Processes, pool: str) -> None:
    log = run(processes, "log_correlation", "-P", pool)
    line = r"\[trace_id=(\w{32}) span_id=(\w{16})\] shop\.(pack|ship): "
    (pack_trace, pack_span, _), (ship_trace, ship_span, _) = re.findall(line, log)
    assert pack_trace == ship_trace
    assert pack_span != ship_span


@pytest.mark.skipif(sys.version_info < (3, 12), reason="FastWorker needs Python 3.12")
def test_the_signup_of_fastworkers_article_is_one_trace_with_its_metrics(
    processes: Processes,
) -> None:
    for module in ("aiosmtpd", "fastworker"):
        if not find_spec(module):
            absent(module)
    *_, tree, metrics = run(processes, "fastworker").split("\n\n")
    row = r"(\W*[\w./ ]*\w) +\W* [\d.]+ (?:ms|µs|s)  ([\w-]+)"
    rows = [re.match(row, line).groups() for line in tree.splitlines()]
    assert rows == [
        ("POST /signup", "web"),
        ("└─ fastworker.client.submit", "web"),
        ("   ├─ nng.req_reply", "web"),
        ("   └─ fastworker.control_plane.dispatch", "control-plane"),
        ("      ├─ nng.req_reply", "control-plane"),
        ("      └─ fastworker.task.execute", "subworker"),
        ("         └─ smtp.sendmail", "subworker"),
    ]
    duration = re.search(r"([\d.]+) s in", metrics)[1]
    assert [line.split() for line in metrics.splitlines()] == [
        ["fastworker.tasks.submitted", "1"],
        ["fastworker.tasks.dispatched", "1"],
        ["fastworker.tasks.completed", "1", "success"],
        ["fastworker.tasks.duration", duration, "s", "in", "1", "run", "success"],
        ["fastworker.workers.active", "1"],
        *(["fastworker.queue.depth", "0", name] for name in ("critical", "high", "normal", "low")),
    ]
