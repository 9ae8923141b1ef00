"""Each test gets a clean server, and nothing is left behind: other tests rely on this."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import kombu
import pytest

from otel_queue_bridge.testing import processes as running
from tests.servers import LIMIT, Processes, unignore_signals, wait_until

# Ignores SIGTERM, and has a child in another session, like RQ's work-horse.
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
os.write(1, b"ready\\n")
time.sleep(600)
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


# Tells which of some signals are ignored, and which are blocked.
TELL = """
import signal
those = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
ignored = [s.name for s in those if signal.getsignal(s) is signal.SIG_IGN]
print(ignored, [s.name for s in those if s in signal.pthread_sigmask(signal.SIG_BLOCK, ())])
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


def test_the_number_of_what_has_ended_is_nobody_elses_until_all_is_stopped(tmp_path):
    """Numbers are reused: another session with the same number would be killed with ours."""
    processes = Processes(tmp_path)
    process = processes.start("short", [sys.executable, "-c", "exit(3)"])
    assert process.wait() == 3
    assert alive(process.pid)

    processes.stop()

    assert not alive(process.pid)
    assert process.wait() == 3


@pytest.mark.parametrize(("told", "survives"), [("{0}\n", False), ("{0}\n-{0}\n", True)])
def test_what_cleans_up_leaves_sessions_that_have_ended(processes, told, survives):
    pid = stubborn(processes).pid
    command = [sys.executable, running.__file__, "no such run"]
    subprocess.run(command, input=told.format(pid), text=True, check=True)
    assert processes.started[0].running() == survives


def test_what_is_started_hears_every_signal(processes):
    """Also if the run does not, as one in the background of a script."""
    ignored = {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)
    }
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        command = [sys.executable, "-c", TELL]
        before = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        unignore_signals()
        os.kill(os.getpid(), signal.SIGINT)  # which the run itself ignores as before
        after = processes.start("told", command)
        assert after.wait() == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in ignored.items():
            signal.signal(number, handler)
    assert before == "['SIGHUP', 'SIGINT'] ['SIGTERM']\n"
    assert after.log() == "[] []\n"


def test_a_process_that_hangs_tells_where(processes):
    process = processes.start("hanging", [sys.executable, "-c", STUBBORN], ready="ready")
    with pytest.raises(TimeoutError, match=r"hanging still runs after 0.1 s\n(.*\n)*  File .* in"):
        process.stop(timeout=0.1)


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
        assert queue.get(timeout=LIMIT).payload == "once"
