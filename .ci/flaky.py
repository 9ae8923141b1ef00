"""Repeat tests while other processes keep the machine busy, and say which failed how often.

python .ci/flaky.py N BUSY TEST [...]    (what `make flaky` runs)
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

# Ends with its parent, however that ends.
BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"
KEPT = Path("flaky.log")
SOME_FAILED = 1  # what pytest returns then; more is an error


def main(times: str, busy: str, *tests: str) -> None:
    number, others = _number("N", times, least=1), _number("BUSY", busy, least=0)
    if not tests:
        sys.exit('flaky: no test is chosen; ARGS="tests/test_x.py::test_y" chooses one')
    failed: Counter[str] = Counter()
    KEPT.unlink(missing_ok=True)
    with ExitStack() as started, tempfile.TemporaryDirectory() as folder:
        for _ in range(others):
            process = started.enter_context(subprocess.Popen([sys.executable, "-c", BUSY]))
            started.callback(process.kill)
        for at in range(1, number + 1):
            failures, output = _run(Path(folder) / str(at), tests)
            print(f"{at} of {number}: {f'{len(failures)} failed' if failures else 'passed'}")
            if failures and not failed:
                KEPT.write_text(output, encoding="utf-8")
            failed.update(failures)
    for test, count in failed.most_common():
        print(f"FLAKY {test}: {count} of {number} failed")
    if failed:
        sys.exit(f"flaky: the first failure's output is in {KEPT}")


def _number(name: str, text: str, least: int) -> int:
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        sys.exit(f"flaky: {name} has to be a whole number from {least} on, and is {text!r}")
    return int(text)


def _run(cache: Path, tests: tuple[str, ...]) -> tuple[list[str], str]:
    """Run the tests once; return those that failed, and pytest's output."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-o", f"cache_dir={cache}", *tests],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if run.returncode > SOME_FAILED:
        print(run.stdout)
        sys.exit("flaky: pytest could not run these tests")
    if run.returncode == 0:
        return [], ""
    return list(json.loads((cache / "v/cache/lastfailed").read_text())), run.stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
