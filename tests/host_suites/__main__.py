"""Run the test suites of queue libraries with us on as off: they have to come to the same.

    python -m tests.host_suites [--queues huey,arq]

Each suite comes with its library's source distribution, in the installed version. pip fetches it
into a temporary folder. Dramatiq's lacks what its tests share: `left_out` has that, and skips what
needs RabbitMQ. That of django-tasks has no tests, and that of django-tasks-db no settings for them.

On two busy cores each of two runs of Celery's takes 7 minutes, of RQ's 5, of Dramatiq's 3.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from tests.servers import Processes, Valkey

EQUIPMENT = Path(__file__).with_name("equipment")
"""What a suite finds first. Our other tests have a name, `tests`, that suites have as well."""
LEFT_OUT = Path(__file__).with_name("left_out")
"""What a distribution lacks beside its tests."""
AGAIN = 3
"""How often a test that came to something else is tried alone, on and off: some are flaky."""


class Suite(NamedTuple):
    tests: str
    """Where they are in the distribution."""
    options: tuple[str, ...] = ()


# It allows a millisecond from an enqueue to a look at the job.
_HASTY = "tests/test_worker.py::test_default_job_expiry[1000000-1000000]"

# They import clients of services, or `cryptography`. We have no part in either.
_CLIENTS = (
    "t/unit/security",
    "t/unit/backends/test_azureblockblob.py",
    "t/unit/backends/test_dynamodb.py",
    "t/unit/backends/test_gcs.py",
    "t/unit/backends/test_mongodb.py",
    "t/unit/backends/test_s3.py",
)
# Its mock makes a loop that never waits. What starts with its name goes too: one more test.
_ENDLESS = "tests/test_discovery.py::test_service_discovery_start"
# They start processes that look for a Redis at the usual port, where ours is not.
_USUAL_PORT = ("tests/test_spawn_worker.py", "tests/test_worker.py::TestWorkerSubprocess")
# It allows a worker 0.75 seconds to end.
_HASTY_POOL = "tests/test_worker_pool.py::TestWorkerPool::test_check_workers"

SUITES = {
    "arq": Suite("tests", ("--deselect", _HASTY)),
    "celery": Suite("t/unit", tuple(f"--ignore={path}" for path in _CLIENTS)),
    "dramatiq": Suite("tests", ("--ignore=tests/test_rabbitmq.py",)),
    "fastworker": Suite("tests", ("--deselect", _ENDLESS)),
    "huey": Suite("huey/tests"),
    "rq": Suite("tests", tuple(f"--deselect={path}" for path in (*_USUAL_PORT, _HASTY_POOL))),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.host_suites", description=__doc__)
    parser.add_argument(
        "--queues",
        type=lambda text: text.split(","),
        default=[queue for queue in SUITES if find_spec(queue)],
        metavar="NAMES",
        help=f"comma list of {', '.join(SUITES)} (default: all that are installed)",
    )
    queues = parser.parse_args().queues
    if unknown := [queue for queue in queues if queue not in SUITES]:
        parser.error(f"there is no suite of {unknown[0]}, name {', '.join(SUITES)}")
    with tempfile.TemporaryDirectory() as folder:
        processes = Processes(Path(folder))
        url = Valkey(processes, Path(folder)).url
        try:
            differing = [queue for queue in queues if not is_same(queue, Path(folder), url)]
        finally:
            processes.stop(grace=0)
    sys.exit(f"not the same with us: {', '.join(differing)}" if differing else 0)


def is_same(queue: str, folder: Path, url: str) -> bool:
    """Run the suite both ways and say what came of it; False if it makes a difference."""
    source = fetch(queue, folder)
    off, on = (run(queue, source, url, on=on) for on in (False, True))
    print(f"{queue} {version(queue)}: off {summary(off)}; on {summary(on)}", flush=True)
    ran = any(outcome == "passed" for outcome in off.values())
    differing = {test for test in off.keys() | on.keys() if off.get(test) != on.get(test)}
    for test in sorted(differing):
        tries = [
            {run(queue, source, url, test, on=on).get(test) for _ in range(AGAIN)}
            for on in (False, True)
        ]
        print(f"  {test}: off {off.get(test)}, on {on.get(test)}; alone {tries}", flush=True)
        if tries[0] & tries[1]:
            differing.remove(test)
    return ran and not differing


def fetch(queue: str, folder: Path) -> Path:
    """Return the folder of the unpacked source distribution."""
    wanted = f"{queue}=={version(queue)}"
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--no-binary", queue]
    subprocess.run([*command, "--dest", str(folder), wanted], check=True)
    (archive,) = folder.glob(f"{queue}-*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    source = folder / archive.name.removesuffix(".tar.gz")
    if (left_out := LEFT_OUT / f"{queue}_tests").exists():
        shutil.copytree(left_out, source / SUITES[queue].tests, dirs_exist_ok=True)
    return source


def run(queue: str, source: Path, url: str, *tests: str, on: bool) -> dict[str, str]:
    """Run the suite, or some of its tests; return what each test came to."""
    suite = SUITES[queue]
    outcomes = source / "outcomes.json"
    outcomes.unlink(missing_ok=True)
    output = source / "output.txt"
    with output.open("w") as written:
        subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "host_suite"),
                *("--no-header", "--override-ini=addopts=", "--override-ini=filterwarnings="),
                *(tests or (suite.tests,)),
                *suite.options,
            ],
            cwd=source,
            env=os.environ
            | {
                "HOST_SUITE": queue,
                "HOST_SUITE_INSTRUMENTED": "yes" if on else "",
                "HOST_SUITE_OUTCOMES": str(outcomes),
                "HOST_SUITE_REDIS": url,
                "PYTHONPATH": str(EQUIPMENT),
            },
            stdout=written,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if not outcomes.exists():
        sys.exit(f"the suite of {queue} broke off:\n{output.read_text(errors='replace')[-3000:]}")
    found: dict[str, str] = json.loads(outcomes.read_text())
    return found


def summary(outcomes: dict[str, str]) -> str:
    counted = Counter(outcomes.values())
    return ", ".join(f"{number} {outcome}" for outcome, number in sorted(counted.items()))


if __name__ == "__main__":
    main()
