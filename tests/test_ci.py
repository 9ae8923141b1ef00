"""What CI does with tests that fail now and then, on a made-up folder of them."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.servers import LIMIT

CI = Path(__file__).parents[1] / ".ci"
AGAIN = CI / "again"
PYTEST = f"{sys.executable} -m pytest -p xdist.plugin --numprocesses=1 --dist=loadscope"
PREAMBLE = """
import os, pytest
from pathlib import Path

def first(name):
    '''Tell whether it is the first time that somebody asks this.'''
    with Path(__file__).with_name(f"{name}.asked").open("a") as file:
        file.write("!")
        return file.tell() == 1

def test_that_always_passes():
    pass

"""
FLAKY = """
@pytest.mark.parametrize("name", {names})
def test_flaky(name):
    assert not first(name)
"""
TEARDOWN = """
@pytest.fixture
def messy():
    yield
    assert not first("teardown")

def test_with_a_messy_end(messy):
    pass
"""
BROKEN = """
def test_broken():
    first("broken")
    assert False
"""
CRASHING = """
def test_crashing():
    if first("crash"):
        os._exit(1)
"""
SKIPPING = """
def test_skipping():
    if not first("skip"):
        pytest.skip("no more")
    assert False
"""
INTERRUPTED = """
def test_interrupted():
    if first("interrupted"):
        pytest.exit("enough")
"""

pytestmark = pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("make")), reason="CI needs bash and make"
)


class Run:
    """A run of CI's tests, in a folder that has these alone."""

    def __init__(self, folder: Path, tests: str) -> None:
        self._folder = folder
        (folder / "Makefile").write_text(f"test:\n\t@{PYTEST} $(ARGS)\n")
        (folder / "pytest.ini").write_text("[pytest]\n")
        (folder / "test_made_up.py").write_text(PREAMBLE + tests)
        ours = ("MAKE", "MFLAGS", "PYTEST")  # of the run that we are in
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # the others take seconds to start
        ended = subprocess.run(
            [str(AGAIN), "end", "make", "test"],
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=5 * LIMIT,  # of what hangs: it starts up to four times
            check=False,
        )
        self.green = ended.returncode == 0
        self.output = ended.stdout

    @property
    def end(self) -> list[str]:
        file = self._folder / "end"
        return file.read_text().splitlines() if file.exists() else []

    def asked(self) -> dict[str, int]:
        """Return how often each of the tests that failed has run."""
        return {file.stem: file.stat().st_size for file in self._folder.glob("*.asked")}


def test_a_run_without_failures_ends_with_pytests_line(tmp_path: Path) -> None:
    run = Run(tmp_path, "")
    assert run.green, run.output
    (closing,) = run.end
    assert "= 1 passed in " in closing


def test_what_passes_alone_is_named_and_the_run_counts(tmp_path: Path) -> None:
    names = ["a b", "[c::d] - é"]
    run = Run(tmp_path, FLAKY.format(names=names) + TEARDOWN)
    assert run.green, run.output
    *flaky, closing = run.end
    assert sorted(flaky) == [
        "FLAKY test_made_up.py::test_flaky[[c::d] - \\xe9]",
        "FLAKY test_made_up.py::test_flaky[a b]",
        "FLAKY test_made_up.py::test_with_a_messy_end",
    ]
    assert "= 2 failed, 2 passed, 1 error in " in closing
    assert run.asked() == {"a b": 2, "[c::d] - é": 2, "teardown": 2}


@pytest.mark.parametrize(
    ("tests", "asked", "reason"),
    [
        (FLAKY.format(names=["a"]) + BROKEN, {"a": 2, "broken": 2}, "failed again"),
        (FLAKY.format(names=[*"abcd"]), dict.fromkeys("abcd", 1), "4 tests failed"),
        (FLAKY.format(names=["a"]) + SKIPPING, {"a": 2, "skip": 2}, "not all of them passed"),
        (CRASHING, {"crash": 2}, "a worker crashed"),  # xdist itself begins it anew
        (FLAKY.format(names=["a"]) + INTERRUPTED, {"a": 1, "interrupted": 1}, "interrupted"),
        ("assert not first('import')", {"import": 1}, "could not be collected"),
    ],
    ids=["broken", "four", "skipped", "crash", "interrupted", "not collected"],
)
def test_whatever_else_is_red(
    tmp_path: Path, tests: str, asked: dict[str, int], reason: str
) -> None:
    run = Run(tmp_path, tests)
    assert not run.green, run.output
    assert reason in run.output.rpartition("again: ")[2]
    assert run.asked() == asked
    assert run.end == []


# Tests that are repeated


@pytest.fixture
def flaky(tmp_path: Path):
    """Return a function that repeats made-up tests; one fails when it first runs."""
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_made_up.py").write_text(PREAMBLE + FLAKY.format(names=["a b"]))

    def flaky(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, CI / "flaky.py", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
            capture_output=True,
            text=True,
            timeout=5 * LIMIT,  # of what hangs
            check=False,
        )

    return flaky


def test_a_test_that_fails_now_and_then_is_named_and_its_first_output_kept(flaky, tmp_path: Path):
    run = flaky("3", "1", "test_made_up.py")
    assert run.returncode == 1
    assert run.stdout.splitlines() == [
        "1 of 3: 1 failed",
        "2 of 3: passed",
        "3 of 3: passed",
        "FLAKY test_made_up.py::test_flaky[a b]: 1 of 3 failed",
    ]
    assert run.stderr == "flaky: the first failure's output is in flaky.log\n"
    assert "assert not first(name)" in (tmp_path / "flaky.log").read_text()
    assert flaky("1", "0", "test_made_up.py::test_that_always_passes").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("0", "1", "x"), "N has to be a whole number from 1 on, and is '0'"),
        (("2", "-1", "x"), "BUSY has to be a whole number from 0 on, and is '-1'"),
        (("2", "0"), 'no test is chosen; ARGS="tests/test_x.py::test_y" chooses one'),
        (("2", "0", "test_none.py"), "pytest could not run these tests"),
    ],
)
def test_what_cannot_be_repeated_is_one_error(flaky, arguments, error) -> None:
    run = flaky(*arguments)
    assert run.returncode == 1
    assert run.stderr == f"flaky: {error}\n"


# What has been released since


@pytest.fixture
def newest(tmp_path):
    """Return a function that runs `.ci/newest.py` beside a pip that knows these releases."""

    def newest(releases):
        (tmp_path / "pip").mkdir()
        (tmp_path / "pip" / "__init__.py").touch()
        found = [{"metadata": {"name": n, "version": v}} for n, v in releases.items()]
        report = f"print({json.dumps(json.dumps({'install': found}))})"
        code = report if releases else "raise SystemExit(1)"
        (tmp_path / "pip" / "__main__.py").write_text(code)
        ran = subprocess.run(
            [sys.executable, CI / "newest.py"],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT,
        )
        return ran.stdout

    return newest


def test_new_releases_outside_of_what_was_tested_are_one_line(newest):
    major, minor, *_ = (int(part) for part in version("wrapt").split("."))
    new = f"{major}.{minor + 1}.0"
    line = newest({"rq": "4.0", "wrapt": new, "celery": "5.3.99", "dramatiq": version("dramatiq")})
    assert line == (
        "newest: outside what was tested: rq 4.0 (allowed is <4,>=2.0), "
        f"wrapt {new} (tested was {version('wrapt')})\n"
    )


def test_no_new_release_is_one_line_too(newest):
    line = newest({name: version(name) for name in ("rq", "celery")})
    assert line == "newest: what was tested has the newest release of all 2 packages\n"


def test_a_pip_that_fails_fails_nothing(newest):
    assert newest({}) == "newest: nobody knows, because pip failed (CalledProcessError)\n"
