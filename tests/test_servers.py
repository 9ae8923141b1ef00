"""What the other tests rely on: a clean server for each, and nothing left behind."""

import os
import signal
import sys
from pathlib import Path

import kombu
import pytest

from tests.servers import Processes, wait_until

# Hears no SIGTERM, and has a child in a session of its own, as RQ's work-horse is.
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
print("ready", flush=True)
time.sleep(60)
"""

# A test run that is killed while it has a server and a stubborn process.
KILLED = f"""
import os, signal, sys
from pathlib import Path
from tests.servers import Processes, Valkey
folder = Path(sys.argv[1])
processes = Processes(folder)
Valkey(processes, folder)
process = processes.start("stubborn", [sys.executable, "-c", {STUBBORN!r}], ready="ready\\nready")
pids = [process.pid, *process.members()] + [each.pid for each in processes.started]
print(*set(pids), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def stubborn(processes: Processes):
    command = [sys.executable, "-c", STUBBORN]
    return processes.start("stubborn", command, ready="ready\nready")


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_stop_ends_also_what_ignores_sigterm_and_what_left_the_session(tmp_path):
    processes = Processes(tmp_path)
    process = stubborn(processes)
    members = process.members()
    assert len(members) == 2

    processes.stop(grace=0.1)

    assert process.wait() == -signal.SIGKILL
    wait_until(lambda: not any(map(alive, members)), what=f"{members} are gone")


def test_a_killed_test_run_leaves_nothing(processes, tmp_path):
    root = Path(__file__).parent.parent
    run = processes.start("run", [sys.executable, "-c", KILLED, str(tmp_path)], cwd=root)

    assert run.wait() == -signal.SIGKILL

    pids = [int(pid) for pid in run.log().split()]
    assert len(pids) == 3
    wait_until(lambda: not any(map(alive, pids)), what=f"{pids} are gone")


def test_a_process_that_ends_too_early_shows_its_log(processes):
    with pytest.raises(RuntimeError, match=r"early ended with 3 before: up\n(.*\n)*no such broker"):
        processes.start(
            "early", [sys.executable, "-c", "print('no such broker'); exit(3)"], ready="up"
        )


@pytest.mark.parametrize("_", range(2))
def test_each_test_has_an_empty_redis(redis_url, valkey, _):
    with valkey.client() as client:
        assert client.incr("seen") == 1


@pytest.mark.parametrize("_", range(2))
def test_each_test_has_an_empty_rabbitmq(amqp_url, _):
    with kombu.Connection(amqp_url) as connection, connection.SimpleQueue("seen") as queue:
        assert queue.qsize() == 0
        queue.put("once")
        assert queue.get(timeout=5).payload == "once"
