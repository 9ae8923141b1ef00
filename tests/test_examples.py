"""Each example runs with its one command, shows what its README says, and leaves nothing behind."""

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import own_queue
from tests.servers import Processes, absent, wait_until

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(processes: Processes, example: str, *arguments: str, **env: str) -> str:
    process = processes.start(
        example, [sys.executable, "run.py", *arguments], cwd=EXAMPLES / example, env=env
    )
    assert process.wait() == 0, process.log()
    # What cleans up behind a killed example ends a moment after the example itself.
    wait_until(lambda: not process.members(), what=f"{example} has left nothing behind")
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


def test_own_queue_follows_an_order_through_a_retry(processes: Processes, tmp_path: Path) -> None:
    package = own_queue.install(tmp_path / "package")
    *_, tree, metrics = run(processes, "own_queue", PYTHONPATH=str(package)).split("\n\n")
    row = r"(\W*[\w ]*\w) +\W* [\d.]+ (?:ms|µs|s)  (\w+)"
    rows = [re.match(row, line) for line in tree.splitlines()]
    names = ["pack", "pack", "pack", "ship", "ship", "ship", "ship", "ship", "ship"]
    steps = ["submit", "dispatch", "execute"] * 3
    assert [(found[1].lstrip(" └─"), found[2]) for found in rows] == [
        (f"{step} {name}", "web" if number == 0 else "worker")
        for number, (step, name) in enumerate(zip(steps, names, strict=True))
    ]
    assert [found[1].index(step) for found, step in zip(rows, steps, strict=True)] == [
        3 * depth for depth in range(9)
    ]
    assert "ConnectionError" in tree
    readme = (EXAMPLES / "own_queue" / "README.md").read_text()
    assert [line.split() for line in metrics.splitlines()] == [
        line.split() for line in re.findall(r"^task\..*", readme, re.MULTILINE)
    ]


def test_own_queues_adapter_is_as_short_as_it_says() -> None:
    lines = own_queue.ADAPTER.read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 70


def pytest_of(
    processes: Processes, folder: Path, *arguments: str, without: str = ""
) -> tuple[int, str]:
    """Run the tests of examples/testing in this folder, and its app without this line."""
    for suffix in ("py", "ini"):
        for file in (EXAMPLES / "testing").glob(f"*.{suffix}"):
            (folder / file.name).write_text(file.read_text().replace(without, ""))
    process = processes.start("testing", [sys.executable, "-m", "pytest", *arguments], cwd=folder)
    code = process.wait()
    wait_until(lambda: not process.members(), what="the worker of the tests has ended")
    return code, process.log()


def test_the_tests_of_an_app_pass(processes: Processes, tmp_path: Path) -> None:
    code, log = pytest_of(processes, tmp_path)
    assert "3 passed" in log, log
    assert code == 0


def test_a_failing_test_of_an_app_reports_what_its_readme_shows(
    processes: Processes, tmp_path: Path
) -> None:
    arguments = ("--tb=short", "-k", "is_shipped")
    code, log = pytest_of(processes, tmp_path, *arguments, without="    ship.delay(order)\n")
    readme = (EXAMPLES / "testing" / "README.md").read_text()
    report = re.search(r"^test_shop.*?(?=```)", readme, re.DOTALL | re.MULTILINE)[0]
    error, section = report.split("-" * 33, 1)
    assert code == 1, log
    assert error in log
    assert "-" * 33 + section in log
