"""Each example runs with its one command, shows what its README says, and leaves nothing behind."""

import re
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests import own_queue
from tests.servers import LIMIT, Processes, absent, wait_until

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(processes: Processes, example: str, *arguments: str, **env: str) -> str:
    process = processes.start(
        example, [sys.executable, "run.py", *arguments], cwd=EXAMPLES / example, env=env
    )
    assert process.wait() == 0, process.log()
    # What cleans up behind a killed example ends a moment after the example itself.
    wait_until(lambda: not process.members(), what=f"{example} has left nothing behind")
    return process.log()


KILLED = """
import time
from pathlib import Path
from otel_queue_bridge.testing.processes import Processes

with Processes(Path()) as processes:
    # Without our mark in its environment, like Valkey, which writes over it.
    print("started", processes.start("other", ["env", "-i", "sleep", "600"]).pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a look at all processes takes /proc")
def test_what_a_killed_example_has_started_ends(processes: Processes, tmp_path: Path) -> None:
    process = processes.start(
        "example", [sys.executable, "-c", KILLED], cwd=tmp_path, ready="started"
    )
    process.wait_for("\n")
    command = Path("/proc", process.log().split()[1], "cmdline")
    assert command.read_bytes()
    process.lose_power()
    wait_until(lambda: not command.exists() or not command.read_bytes())


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


ROW = re.compile(r"(\W*\w.*?)  .*?[\d.]+ (?:µs|ms|s)  +([\w-]+).*?(ERROR.*)?")
TRACE_ID = re.compile(r"[0-9a-f]{32}")


def shown(text: str) -> list[tuple[str, ...]]:
    """What an example, or its README, shows: of a span its place, its service and its error."""
    found: list[tuple[str, ...]] = []
    for line in map(str.rstrip, text.splitlines()):
        if row := ROW.fullmatch(line):
            found.append(row.groups(default=""))
        elif line and not line.startswith("$ "):
            found.append(tuple(TRACE_ID.sub("…", line).split()))
    return found


def promised(example: str) -> list[tuple[str, ...]]:
    readme = (EXAMPLES / example / "README.md").read_text()
    blocks = readme.split("```")[1::2]
    return shown("".join(block for block in blocks if block.startswith("\n")))


@pytest.mark.parametrize(
    "example",
    ["celery_beat", "celery_canvas", "dramatiq_retries", "link_instead_of_parent", "rq_jobs"],
)
def test_an_example_shows_what_its_readme_says(processes: Processes, example: str) -> None:
    assert shown(run(processes, example)) == promised(example)


def test_a_task_is_submitted_after_djangos_commit(processes: Processes, tmp_path: Path) -> None:
    # Only here: it would load Django into every process that other tests start.
    names = [f"opentelemetry-instrumentation-{name}" for name in ("django", "wsgi")]
    packages = [f"{name}=={version('opentelemetry-instrumentation')}" for name in names]
    folder = tmp_path / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, *packages], check=True, timeout=LIMIT)
    output = run(processes, "django_celery", PYTHONPATH=str(folder))
    assert shown(output) == promised("django_celery")


def test_own_queue_follows_an_order_through_a_retry(processes: Processes, tmp_path: Path) -> None:
    package = own_queue.install(tmp_path / "package")
    output = run(processes, "own_queue", PYTHONPATH=str(package))
    assert shown(output) == promised("own_queue")


def test_own_queues_adapter_is_as_short_as_it_says() -> None:
    lines = own_queue.ADAPTER.read_text().splitlines()
    assert len([line for line in lines if line.strip()]) <= 70


def test_the_process_of_fastapi_and_celery_is_one_trace_with_its_figures(
    processes: Processes,
) -> None:
    *_, good, bad, figures = run(processes, "fastapi_celery").split("\n\n")
    time = r"[\d.]+ (?:ms|µs|s)"
    row = rf"(\W*[\w./ ]*\w) +\W* {time}  (\w+) *(?:waited {time})?,? *(.*?) *$"
    expected = [
        ("GET /process", "web"),
        ("├─ numpy.compute", "web"),
        ("└─ submit main.background_task", "web"),
        ("   └─ dispatch main.background_task", "worker"),
        ("      └─ execute main.background_task", "worker"),
        ("         └─ pandas.compute", "worker"),
    ]
    for tree, errors in ((good, ["", ""]), (bad, ["ERROR ValueError", "ERROR"])):
        rows = [re.match(row, line).groups() for line in tree.splitlines()]
        assert [found[:2] for found in rows] == expected
        assert [found[2] for found in rows] == ["", "", "", "", *errors]
    p95, errors, depth = figures.splitlines()
    assert re.fullmatch(r"p95 of the duration +[\d.]+ ms  of 10 runs", p95)
    assert errors.split() == ["error", "rate", "20", "%", "2", "tasks", "failed"]
    assert re.fullmatch(r"queue depth +0     it was \d+ at most", depth)


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
