# ruff: noqa: SLF001 - the two ends of a pipe have no public names
"""The pipe from forked children: what they report arrives, and never holds them up."""

import json
import logging
import os
import select
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from otel_queue_bridge import metrics, relay
from otel_queue_bridge.relay import Relay
from tests.servers import wait_until

PATIENCE = 20
"""Seconds after which something hangs for good."""

NAME = ("task.submitted", "{task}", "Tasks handed over to a queue")
OK = (("messaging.system", "fake"), ("task.name", "ok"))

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")


class Recorded:
    """Stands for the instruments of the parent: what the relay gave it."""

    def __init__(self):
        self.calls = []

    def __call__(self, *arguments):
        self.calls.append(arguments)


@pytest.fixture
def recorded():
    return Recorded()


@pytest.fixture
def opened(recorded):
    opened = Relay(recorded)
    yield opened
    opened.close(PATIENCE)


def stopped(monkeypatch, opened, recorded):
    """Make the parent's reader wait in its first record; the function returned lets it go on."""
    reached, let_go = threading.Event(), threading.Event()

    def record(*arguments):
        reached.set()
        let_go.wait(PATIENCE)
        recorded(*arguments)

    monkeypatch.setattr(opened, "_record", record)
    opened.send(*NAME, OK, None)
    assert reached.wait(PATIENCE)
    return let_go.set


def test_what_is_sent_is_recorded_as_it_was(opened, recorded):
    opened.send(*NAME, OK, None)
    opened.send("task.wait", "s", "Größe\n", (*OK, ("error.type", "a\nb")), 0.25)
    wait_until(lambda: len(recorded.calls) == 2)
    assert recorded.calls == [
        (*NAME, OK, None),
        ("task.wait", "s", "Größe\n", (*OK, ("error.type", "a\nb")), 0.25),
    ]


def test_closing_reads_what_is_left(recorded):
    opened = Relay(recorded)
    for value in range(200):
        opened.send(*NAME, OK, value)
    opened.close(PATIENCE)
    assert [value for *_, value in recorded.calls] == list(range(200))


def test_closing_twice_does_nothing(recorded):
    opened = Relay(recorded)
    opened.close(PATIENCE)
    opened.close(PATIENCE)
    assert opened not in relay._relays


def test_a_full_pipe_drops_with_one_warning_and_never_blocks(monkeypatch, opened, recorded, caplog):
    go_on = stopped(monkeypatch, opened, recorded)
    sending = threading.Thread(
        target=lambda: [opened.send(*NAME, OK, value) for value in range(20_000)], daemon=True
    )
    sending.start()
    sending.join(PATIENCE)
    blocked = sending.is_alive()
    go_on()
    assert not blocked
    (warning,) = caplog.records
    assert (warning.name, warning.levelno) == ("otel_queue_bridge", logging.WARNING)
    assert str(os.getpid()) in warning.getMessage()
    opened.close(PATIENCE)
    values = [value for *_, value in recorded.calls[1:]]
    assert values == sorted(values), "nothing is garbled or out of order"
    assert len(values) < 20_000
    assert len(values) + opened._dropped == 20_000


def test_a_record_that_the_kernel_would_cut_is_dropped(opened, recorded, caplog):
    opened.send(*NAME, (("task.name", "n" * select.PIPE_BUF),), None)
    opened.send(*NAME, OK, None)
    wait_until(lambda: recorded.calls)
    opened.close(PATIENCE)
    assert recorded.calls == [(*NAME, OK, None)]
    assert len(caplog.records) == 1


def test_what_is_no_record_does_not_end_the_relay(opened, recorded):
    """A child killed while it wrote, or whatever else may come through."""
    os.write(opened._write_end, b"junk\n[1, 2]\nnull\n")
    opened.send(*NAME, OK, None)
    wait_until(lambda: recorded.calls, timeout=5)
    assert recorded.calls == [(*NAME, OK, None)]


def test_a_record_that_cannot_be_recorded_does_not_end_the_relay(recorded):
    def record(*arguments):
        if not recorded.calls:
            recorded(*arguments)
            raise RuntimeError("a view of the user's")
        recorded(*arguments)

    opened = Relay(record)
    opened.send(*NAME, OK, 1)
    opened.send(*NAME, OK, 2)
    opened.close(PATIENCE)
    assert [value for *_, value in recorded.calls] == [1, 2]


@forks
def test_a_writer_that_stays_does_not_keep_the_parent(recorded):
    """A daemon that a task left behind holds the pipe open for ever."""
    opened = Relay(recorded)
    kept = os.dup(opened._write_end)
    closing = threading.Thread(target=opened.close, args=(0.01,), daemon=True)
    closing.start()
    closing.join(PATIENCE)
    late = closing.is_alive()
    os.close(kept)
    opened._thread.join(PATIENCE)
    assert not late


def test_there_are_no_file_descriptors_left(recorded):
    descriptors = Path("/proc/self/fd")

    def count():
        return len(list(descriptors.iterdir())) if descriptors.is_dir() else 0

    before = count()
    for _ in range(20):
        Relay(recorded).close(PATIENCE)
    assert count() == before


def test_without_a_relay_a_child_counts_for_itself(monkeypatch):
    monkeypatch.setattr(metrics, "forward", None)
    monkeypatch.setattr(relay, "_relays", [])
    relay.enter_child()
    assert metrics.forward is None


# In a process of their own: forks of pytest's would take its threads' locks along.

PREAMBLE = """
import json, os, sys
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from otel_queue_bridge import lifecycle, metrics, relay
from otel_queue_bridge.adapter import SUCCESS, Task
from otel_queue_bridge.config import load
from otel_queue_bridge.metrics import Measurements

lifecycle.run_in_children(metrics.start_from_nothing, relay.enter_child)
reader = InMemoryMetricReader()
config = load({"meter_provider": MeterProvider([reader])}, environment={})
measured = Measurements("fake", config)
task = Task("ok", "queue")

def submit(times):
    for _ in range(times):
        measured.submitted(task, None, 0.01)

def totals():
    data = reader.get_metrics_data()
    found = {}
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    value = getattr(point, "value", None)
                    found[metric.name] = point.count if value is None else value
    return found

def child(work):
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(1)
    return pid

def reap(*pids):
    for pid in pids:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def scripted(code):
    """Run the preamble and `code`; return what it printed, decoded."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE + textwrap.dedent(code)],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@forks
def test_what_many_children_record_at_once_is_recorded_by_the_parent():
    arrived, own = scripted("""
        submit(1)
        opened = relay.Relay(measured.instruments.record)

        def work():
            submit(50)
            measured.attempted(task, SUCCESS, None, 0.5, 0.25)
            assert totals() == {}, totals()

        reap(*[child(work) for _ in range(8)])
        opened.close(20)
        print(json.dumps([totals(), metrics.forward is None]))
    """)
    assert arrived == {
        "task.submitted": 401,
        "task.completed": 8,
        "task.duration": 8,
        "task.wait": 8,
    }
    assert own, "the parent records for itself"


@forks
def test_a_childs_child_reports_to_the_first_parent():
    assert scripted("""
        opened = relay.Relay(measured.instruments.record)

        def work():
            submit(1)
            reap(child(lambda: submit(2)))
            submit(4)

        reap(child(work))
        opened.close(20)
        print(json.dumps(totals()))
    """) == {"task.submitted": 7}


@forks
def test_a_child_that_ends_in_its_next_moment_has_reported():
    assert scripted("""
        import signal
        opened = relay.Relay(measured.instruments.record)

        def work():
            submit(3)
            os.kill(os.getpid(), signal.SIGKILL)

        pid = child(work)
        os.waitpid(pid, 0)
        opened.close(20)
        print(json.dumps(totals()))
    """) == {"task.submitted": 3}


@forks
def test_a_child_without_a_relay_counts_from_nothing():
    assert scripted("""
        submit(5)
        measured.attempted(task, SUCCESS, None, 0.5, 0.25)
        before = totals()
        read, write = os.pipe()

        def work():
            inherited = totals()
            submit(2)
            measured.attempted(task, SUCCESS, None, 0.5, 0.25)
            os.write(write, json.dumps([inherited, totals()]).encode())

        reap(child(work))
        print(json.dumps([*json.loads(os.read(read, 10_000)), totals() == before]))
    """) == [
        {},
        {"task.submitted": 2, "task.completed": 1, "task.duration": 1, "task.wait": 1},
        True,
    ]


@forks
def test_a_child_forked_after_the_relay_closed_counts_for_itself():
    assert scripted("""
        opened = relay.Relay(measured.instruments.record)
        reap(child(lambda: submit(1)))
        opened.close(20)
        read, write = os.pipe()

        def work():
            submit(2)
            os.write(write, json.dumps(totals()).encode())

        reap(child(work))
        print(json.dumps([json.loads(os.read(read, 10_000)), totals()]))
    """) == [{"task.submitted": 2}, {"task.submitted": 1}]


@forks
def test_a_child_whose_parent_is_gone_drops_and_runs_on():
    assert (
        scripted("""
        import time
        read, write = os.pipe()

        def orphan():
            while os.getppid() == opener:
                time.sleep(0.01)
            submit(20_000)
            os.write(write, json.dumps("ran on").encode())

        def parent():
            global opened, opener
            opener = os.getpid()
            opened = relay.Relay(measured.instruments.record)
            child(orphan)

        reap(child(parent))
        print(os.read(read, 10_000).decode())
    """)
        == "ran on"
    )


@forks
def test_a_child_that_closes_its_copy_writes_into_nobodys_file():
    """A pool object that a child inherited may be stopped there too; the number is used again."""
    assert (
        scripted("""
        import tempfile
        opened = relay.Relay(measured.instruments.record)

        def work():
            opened.close(0)
            with tempfile.TemporaryFile() as file:
                os.dup2(file.fileno(), opened_as)
                submit(1)
                assert file.seek(0, 2) == 0

        opened_as = opened._write_end
        reap(child(work))
        opened.close(20)
        print(json.dumps("clean"))
    """)
        == "clean"
    )


@forks
def test_a_full_pipe_does_not_hold_a_child():
    dropped, _ = scripted(f"""
        import signal
        opened = relay.Relay(lambda *_: signal.pause())  # a parent that does not read
        pid = child(lambda: submit(20_000))
        signal.alarm({PATIENCE})
        reap(pid)
        print(json.dumps(["ended", 0]))
        sys.stdout.flush()
        os._exit(0)
    """)
    assert dropped == "ended"
