"""Pipe and thread of a relay are there only while there is a child, and are never another's."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.servers import LIMIT

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks into /proc")

PREAMBLE = """
import gc, json, os, signal, sys, tempfile, threading, time
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from otel_queue_bridge.adapter import Adapter, Task
from otel_queue_bridge.bridge import Bridge
from otel_queue_bridge.config import load
from otel_queue_bridge.forks import lifecycle, relay
from tests.forking import child, reap
from tests.servers import LIMIT, wait_until

reader = InMemoryMetricReader()
config = load({"meter_provider": MeterProvider([reader])}, environment={})
bridge = Bridge(Adapter("fake", (), ()), config)

def submit(times=1):
    for _ in range(times):
        bridge._measurements.submitted(Task("ok", "queue"), None, 0.01)

def submitted():
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == "task.submitted":
                    return sum(point.value for point in metric.data.data_points)
    return 0

def files():
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add((number, os.readlink("/proc/self/fd/" + number)))
        except OSError:
            pass  # the list's own
    return found

def threads():
    return [thread.name for thread in threading.enumerate() if "relay" in thread.name]

def is_gone():
    return not threads() and files() == before

def staying():
    # a child that waits to be let go; return its id, and the function that does
    read, write = os.pipe()
    def stay():
        os.read(read, 1)
        submit()
    pid = child(stay)
    os.close(read)
    def let_go():
        os.write(write, b".")
        os.close(write)
        reap(pid)
    return let_go

submit()
submitted()  # all that is made at the first collection
before = files()
"""


def scripted(code):
    """Run the preamble and `code`; return what it printed, decoded."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE + textwrap.dedent(code)],
        check=False,
        capture_output=True,
        text=True,
        timeout=LIMIT * 2,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    assert "Traceback" not in run.stderr
    return json.loads(run.stdout) if run.stdout else None


def test_they_come_with_the_first_child_and_go_with_the_last():
    assert (
        scripted("""
        opened = bridge.relay()
        assert is_gone(), "nothing before there is a child"
        one = staying()
        assert threads() == ["otel_queue_bridge.relay"]
        two = staying()
        assert threads() == ["otel_queue_bridge.relay"]
        one()
        wait_until(lambda: submitted() == 2)
        assert threads() == ["otel_queue_bridge.relay"]
        two()
        wait_until(is_gone)
        three = staying()  # and again
        three()
        wait_until(is_gone)
        print(json.dumps(submitted()))
    """)
        == 4
    )


@pytest.mark.parametrize(
    "end",
    ["opened.close()", "bridge.close(owner)", "bridge.undo()", "del owner; gc.collect()"],
)
def test_they_go_with_whatever_ends_the_relay_while_a_child_lives(end):
    scripted(f"""
        class Owner:
            pass

        owner = Owner()
        owner.self = owner  # only the collector of garbage ends it
        opened = bridge.relay(owner)
        let_go = staying()
        assert threads()
        opened = opened.close
        if "opened" not in {end!r}:
            del opened
        {end.replace("opened.close()", "opened()")}
        wait_until(lambda: not threads())
        assert not relay._relays
        let_go()
        wait_until(is_gone)
    """)


def test_a_fork_that_fails_leaves_nothing():
    scripted("""
        import resource
        opened = bridge.relay()
        if os.geteuid() == 0:  # no limit holds root back
            os.setresuid(65534, 65534, 65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
        try:
            os.fork()
        except BlockingIOError:
            failed = True
        assert failed
        resource.setrlimit(
            resource.RLIMIT_NPROC, (resource.getrlimit(resource.RLIMIT_NPROC)[1],) * 2
        )
        wait_until(is_gone)
        consumer = config.meter_provider._measurement_consumer
        assert not consumer._lock.locked()
        submit()
        assert submitted() == 2
    """)


def test_without_a_number_for_the_pipe_the_child_is_on_its_own():
    scripted("""
        import resource
        opened = bridge.relay()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))

        def work():
            assert submitted() == 0
            submit()
            assert submitted() == 1

        pid = child(work)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        reap(pid)
        assert not threads()
    """)


CLOSING = """
def close_all_and_open(kind):
    # as Celery's embedded beat does, with an app that opens others then
    os.closerange(3, 1000)
    if kind == "files":
        return [tempfile.TemporaryFile() for _ in range(20)]
    import socket
    return [end for _ in range(10) for end in socket.socketpair()]

def untouched(opened):
    for one in opened:
        if hasattr(one, "getsockname"):
            one.setblocking(False)
            try:
                assert not one.recv(1), "something was written"
                return False
            except BlockingIOError:
                pass
        else:
            assert one.seek(0, 2) == 0, "something was written"
        os.fstat(one.fileno())
    return True
"""


@pytest.mark.parametrize("kind", ["files", "sockets"])
def test_a_child_that_closes_all_writes_into_nobodys_file(kind):
    scripted(
        CLOSING
        + f"""
opened = bridge.relay()

def work():
    submit()
    opened = close_all_and_open("{kind}")
    submit(100)
    bridge.tell("word")
    assert untouched(opened)
    pid = child(submit)  # and one of its own
    reap(pid)
    bridge.undo()
    assert untouched(opened)

reap(child(work))
wait_until(is_gone)
assert submitted() == 2
"""
    )


@pytest.mark.parametrize("kind", ["files", "sockets"])
def test_a_parent_that_closes_all_reads_nobodys_file_and_rests(kind):
    scripted(
        CLOSING
        + f"""
opened = bridge.relay()
late = []
read, write = os.pipe()

def stay():
    os.close(write)
    os.read(read, 1)
    submit(100)  # to nobody

pids = [child(stay) for _ in range(3)]
wait_until(threads)
mine = close_all_and_open("{kind}")  # which lets the children go, too
for one in mine:
    if "{kind}" == "sockets":
        one.setblocking(False)
reap(*pids)
assert untouched(mine)
wait_until(lambda: not threads(), what="its thread has nobody to hear")
reap(*[child(submit) for _ in range(3)])  # a new child has a new pipe
wait_until(lambda: submitted() == 4)
wait_until(lambda: not threads())
assert untouched(mine)
bridge.undo()
assert untouched(mine)
"""
    )


def test_grandchildren_and_who_outlives_the_relay():
    assert (
        scripted("""
        opened = bridge.relay()
        read, write = os.pipe()
        gone = os.pipe()

        def grandchild():
            os.close(write)
            os.read(read, 1)  # until the relay is closed, and its parent dead
            submit(1000)
            os.write(gone[1], b"ran on")

        def work():
            submit()
            child(grandchild)
            reap(child(submit))

        reap(child(work))
        wait_until(lambda: submitted() == 3)
        assert threads(), "the grandchild may report"
        bridge.undo()
        wait_until(lambda: not threads())
        os.close(write)
        print(json.dumps(os.read(gone[0], 100).decode()))
    """)
        == "ran on"
    )


def test_two_hundred_children_at_once():
    assert (
        scripted("""
        opened = bridge.relay()
        read, write = os.pipe()

        def work():
            os.close(write)
            os.read(read, 1)
            submit(5)

        pids = [child(work) for _ in range(200)]
        os.close(write)
        assert len(threads()) == 1
        reap(*pids)
        os.close(read)
        wait_until(is_gone)
        print(json.dumps(submitted()))
    """)
        == 1001
    )


def test_threads_that_fork_at_the_same_time_while_children_report():
    assert scripted("""
        opened = bridge.relay()
        failed = []

        def forking():
            for _ in range(20):
                pid = child(lambda: submit(3))
                if os.waitpid(pid, 0)[1]:
                    failed.append(pid)

        forkers = [threading.Thread(target=forking) for _ in range(4)]
        for forker in forkers:
            forker.start()
        for forker in forkers:
            forker.join()
        wait_until(is_gone)
        print(json.dumps([submitted(), failed]))
    """) == [241, []]


def test_a_relay_of_many_children_leaves_no_number_behind():
    assert (
        scripted("""
        opened = bridge.relay()
        for _ in range(20):
            reap(*[child(submit) for _ in range(10)])
        wait_until(is_gone)
        print(json.dumps(submitted()))
    """)
        == 201
    )
