# ruff: noqa: SLF001 - the ends of a pipe have no public names
"""The pipes from forked children: what they report arrives, and never holds them up."""

import contextlib
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

from otel_queue_bridge.forks import relay
from otel_queue_bridge.forks.relay import Line, Relay
from tests.servers import LIMIT, wait_until

ROOT = Path(__file__).parents[1]
PATIENCE = int(LIMIT)
"""Seconds after which something hangs for good."""

OK = ("fake", "submitted", "ok")
ARRIVED = ("fake", "submitted", "ok")
LONG = "n" * 3 * select.PIPE_BUF

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


class Channel:
    """A relay and a child's line to it, both in this process, as if after a fork."""

    def __init__(self, patience=PATIENCE, **receivers):
        self.relay = Relay(lambda: receivers, patience)
        opened = self.relay.open()
        ((read, write),) = opened._pipes
        self.receivers = self.relay._receivers
        self.incoming = relay._Incoming(read)
        self.relay.listen([self.incoming])
        self.line = Line(write, tuple(self.receivers))
        self.send, self.count = self.line.send, self.line.count
        self.told = self.relay.told

    def close(self):
        """Let the child end, and then close the relay."""
        self.line.close()
        self.relay.close()


@pytest.fixture
def opened(recorded):
    opened = Channel(count=recorded)
    yield opened
    opened.close()


def stopped(opened, recorded):
    """Make the parent's reader wait in its first record; the function returned lets it go on."""
    reached, let_go = threading.Event(), threading.Event()

    def record(*arguments):
        reached.set()
        let_go.wait(2 * PATIENCE)  # longer than whoever looks on
        recorded(*arguments)

    opened.receivers["count"] = record
    opened.count(*OK)
    assert reached.wait(PATIENCE)
    return let_go.set


def fill(opened):
    """Fill the pipe to the last byte: what is short may fit where what is long does not."""
    while opened.send("count", LONG):
        pass
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(opened.line._end.number, b" ")


def test_what_is_sent_is_recorded_as_it_was(opened, recorded):
    opened.count("fake", "submitted", None, "ok")
    opened.count("fake", "wait", 0.25, "Größe\n", "a\nb", None)
    wait_until(lambda: len(recorded.calls) == 2)
    assert recorded.calls == [
        ("fake", "submitted", None, "ok"),
        ("fake", "wait", 0.25, "Größe\n", "a\nb", None),
    ]


def test_each_kind_goes_to_its_own_receiver():
    counts, spans = Recorded(), Recorded()
    opened = Channel(count=counts, span=spans)
    assert opened.send("span", 1, [2])
    assert opened.send("count", 3)
    opened.close()
    assert (counts.calls, spans.calls) == ([(3,)], [(1, [2])])


def test_closing_reads_what_is_left(recorded):
    opened = Channel(count=recorded)
    for value in range(200):
        opened.count(*OK, value)
    opened.close()
    assert [value for *_, value in recorded.calls] == list(range(200))


def test_closing_twice_does_nothing(recorded):
    opened = Channel(count=recorded)
    opened.close()
    opened.close()
    assert opened.relay not in relay._relays


def test_a_full_pipe_drops_with_one_warning_and_never_blocks(opened, recorded, caplog):
    go_on = stopped(opened, recorded)
    sending = threading.Thread(
        target=lambda: [opened.count(*OK, value) for value in range(20_000)], daemon=True
    )
    sending.start()
    sending.join(PATIENCE)
    blocked = sending.is_alive()
    go_on()
    assert not blocked
    (warning,) = caplog.records
    assert (warning.name, warning.levelno) == ("otel_queue_bridge", logging.WARNING)
    assert str(os.getpid()) in warning.getMessage()
    opened.close()
    values = [value for *_, value in recorded.calls[1:]]
    assert values == sorted(values), "nothing is garbled or out of order"
    assert len(values) < 20_000
    assert len(values) + opened.line._dropped == 20_000


def test_a_report_arrives_whole_however_long(recorded):
    """The kernel would cut what is longer than PIPE_BUF, or mix it with another's."""
    opened = Channel(count=recorded)
    lengths = [*range(select.PIPE_BUF - 80, select.PIPE_BUF + 20), 60_000]
    texts = ["".join(chr(ord("a") + at % 26) for at in range(length)) for length in lengths]
    for text in texts:
        wait_until(lambda text=text: opened.send("count", text))
    opened.close()
    assert recorded.calls == [(text,) for text in texts]


@pytest.mark.parametrize("length", [64 * 1024, 1024 * 1024])
def test_a_report_that_no_pipe_holds_is_refused_and_leaves_nothing(opened, recorded, length):
    assert not opened.send("count", "n" * length)
    opened.count(*OK)
    opened.close()
    assert recorded.calls == [ARRIVED]
    assert opened.incoming._parts == {}


def test_a_count_that_is_refused_is_lost_with_one_warning(opened, recorded, caplog):
    for _ in range(2):
        opened.count(*OK, "n" * 64 * 1024)
    opened.count(*OK)
    opened.close()
    assert recorded.calls == [ARRIVED]
    assert len(caplog.records) == 1


def test_what_is_no_record_does_not_end_the_relay(opened, recorded):
    """A child killed while it wrote, or whatever else may come through."""
    os.write(opened.line._end.number, b"junk\n[1, 2]\nnull\n")
    opened.count(*OK)
    wait_until(lambda: recorded.calls)
    assert recorded.calls == [ARRIVED]


def test_a_record_that_cannot_be_recorded_does_not_end_the_relay(recorded):
    def record(*arguments):
        if not recorded.calls:
            recorded(*arguments)
            raise RuntimeError("a view of the user's")
        recorded(*arguments)

    opened = Channel(count=record)
    opened.count(*OK, 1)
    opened.count(*OK, 2)
    opened.close()
    assert [value for *_, value in recorded.calls] == [1, 2]


@forks
def test_a_writer_that_stays_does_not_keep_the_parent(recorded):
    """A daemon that a task left behind holds the pipe open for ever."""
    opened = Channel(patience=0.01, count=recorded)
    kept = os.dup(opened.line._end.number)
    thread = opened.relay._thread
    closing = threading.Thread(target=opened.close, daemon=True)
    closing.start()
    closing.join(PATIENCE)
    late = closing.is_alive()
    os.close(kept)
    thread.join(PATIENCE)
    assert not late


def test_there_are_no_file_descriptors_left(recorded):
    descriptors = Path("/proc/self/fd")

    def count():
        return len(list(descriptors.iterdir())) if descriptors.is_dir() else 0

    before = count()
    for _ in range(20):
        Channel(count=recorded).close()
    assert count() <= before  # what others have left may be closed meanwhile


def test_a_fork_does_not_wait_for_a_report_that_hangs(opened, recorded):
    """Whoever exports in the reading thread may hang; the next child is forked all the same."""
    let_go = stopped(opened, recorded)
    fork = threading.Thread(target=lambda: opened.relay.open().in_parent(), daemon=True)
    fork.start()
    fork.join(PATIENCE)
    waits = fork.is_alive()
    let_go()
    assert not waits


# What children tell


def asked(opened):
    """Ask in a thread, as it may hang; return the thread, and where its answer will be."""
    answers = []
    asking = threading.Thread(target=lambda: answers.append(opened.told()), daemon=True)
    asking.start()
    return asking, answers


def test_what_was_told_is_returned_once(opened):
    for message in ("one", "Größe", "one"):
        opened.send("tell", message)
    assert opened.told() == {"one", "Größe"}
    opened.send("tell", "two")
    assert opened.told() == {"two"}
    assert opened.told() == set()


@pytest.mark.parametrize("filled", [False, True], ids=["pipe with room", "full pipe"])
def test_what_was_told_before_is_waited_for(monkeypatch, opened, recorded, filled):
    monkeypatch.setattr(relay, "_READING_LIMIT", PATIENCE)
    go_on = stopped(opened, recorded)
    opened.send("tell", "last words")
    if filled:
        fill(opened)
    asking, answers = asked(opened)
    asking.join(0.1)
    assert not answers
    go_on()
    asking.join(PATIENCE)
    assert answers == [{"last words"}]


@pytest.mark.parametrize("filled", [False, True], ids=["pipe with room", "full pipe"])
def test_a_reader_that_hangs_does_not_hold_who_asks(monkeypatch, opened, recorded, filled):
    monkeypatch.setattr(relay, "_READING_LIMIT", 0.01)
    go_on = stopped(opened, recorded)
    if filled:
        fill(opened)
    asking, answers = asked(opened)
    asking.join(PATIENCE)
    late = asking.is_alive()
    go_on()
    assert not late
    assert answers == [set()]


def test_a_closed_relay_may_be_asked(opened):
    opened.send("tell", "last words")
    opened.close()
    assert opened.told() == {"last words"}


def test_who_asks_again_is_told_what_came_too_late(monkeypatch, opened, recorded):
    go_on = stopped(opened, recorded)
    monkeypatch.setattr(relay, "_READING_LIMIT", 0.01)
    opened.send("tell", "last words")
    assert opened.told() == set(), "the reader holds it up"
    monkeypatch.setattr(relay, "_READING_LIMIT", PATIENCE)
    asking, answers = asked(opened)
    asking.join(0.1)
    go_on()
    asking.join(PATIENCE)
    assert answers == [{"last words"}]


def test_what_a_living_child_is_about_to_report_is_not_forgotten(opened, recorded):
    write, writing = opened.line._end.write, iter(range(100))

    def write_and_be_asked(line):
        if next(writing) == 1:
            opened.line._end.write = write
            opened.told()
        return write(line)

    opened.line._end.write = write_and_be_asked
    assert opened.send("count", LONG)
    opened.close()
    assert recorded.calls == [(LONG,)]


def test_a_part_that_a_killed_child_has_left_joins_no_later_report(opened, recorded):
    """Another process may get its number."""
    write = opened.line._end.write
    report = json.dumps(("count", LONG)).encode()
    for rest in (b"", b"+77.0 more\n"):
        write(b'^77.0 ["count", "half of a rep\n' + rest)
        write(b"^77.0 %b\n" % report[:4000])
        for at in range(4000, len(report), 4000):
            mark = b"=" if at + 4000 >= len(report) else b"+"
            write(b"%b77.0 %b\n" % (mark, report[at : at + 4000]))
    write(b'+78.0 "no beginning"]\n')
    write(b'=79.0 "no beginning"]\n')
    opened.close()
    assert recorded.calls == [(LONG,)] * 2


# In a process of their own: forks of pytest's would take its threads' locks along.

PREAMBLE = """
import json, os, sys, threading
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from otel_queue_bridge.adapter import SUCCESS, Outcome, Task
from otel_queue_bridge.config import load
from otel_queue_bridge.forks import lifecycle, relay
from otel_queue_bridge.metrics import Measurements
from tests.forking import child, reap

reader = InMemoryMetricReader()
provider = MeterProvider([reader])
measured = Measurements("fake", load({"meter_provider": provider}, environment={}))
task = Task("ok", "queue")

class Participant:
    line = None

    def providers(self):
        return (provider,)

    def enter_child(self, line):
        self.line = line
        measured.report_to(line.count if line and "count" in line.kinds else None)

participant = Participant()
lifecycle.join(participant)

def count(system, key, value, *facts):
    measured.record(key, value, *facts)

def relaying(patience=20, **receivers):
    return relay.Relay(lambda: receivers or {"count": count}, patience)

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
"""


def scripted(code):
    """Run the preamble and `code`; return what it printed, decoded."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PREAMBLE + textwrap.dedent(code)],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
        cwd=ROOT,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@forks
def test_what_many_children_record_at_once_is_recorded_by_the_parent():
    arrived, own = scripted("""
        submit(1)
        opened = relaying()

        def work():
            submit(50)
            measured.attempted(task, SUCCESS, None, 0.5, 0.25)
            assert totals() == {}, totals()

        reap(*[child(work) for _ in range(8)])
        opened.close()
        print(json.dumps([totals(), measured._send is None]))
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
        opened = relaying()

        def work():
            submit(1)
            reap(child(lambda: submit(2)))
            submit(4)

        reap(child(work))
        opened.close()
        print(json.dumps(totals()))
    """) == {"task.submitted": 7}


@forks
def test_a_child_that_ends_in_its_next_moment_has_reported():
    assert scripted("""
        import signal
        opened = relaying()

        def work():
            submit(3)
            os.kill(os.getpid(), signal.SIGKILL)

        pid = child(work)
        os.waitpid(pid, 0)
        opened.close()
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
def test_a_child_that_brings_its_own_sdk_counts_for_itself():
    """As those who set it up after the fork; the parent may trace only."""
    assert scripted("""
        from opentelemetry.metrics import set_meter_provider
        from opentelemetry.sdk.trace import TracerProvider
        from otel_queue_bridge.adapter import Adapter
        from otel_queue_bridge.bridge import Bridge

        config = load({"tracer_provider": TracerProvider()}, environment={})
        bridge = Bridge(Adapter("fake", (), ()), config)
        opened = bridge.relay()
        read, write = os.pipe()

        def work():
            set_meter_provider(their_own)
            bridge._measurements.submitted(task, None, 0.01)
            os.write(write, json.dumps(totals()).encode())

        their_own = MeterProvider([reader := InMemoryMetricReader()])
        reap(child(work))
        opened.close()
        print(os.read(read, 10_000).decode())
    """) == {"task.submitted": 1}


@forks
def test_a_child_forked_after_the_relay_closed_counts_for_itself():
    assert scripted("""
        opened = relaying()
        reap(child(lambda: submit(1)))
        opened.close()
        read, write = os.pipe()

        def work():
            submit(2)
            os.write(write, json.dumps(totals()).encode())

        reap(child(work))
        print(json.dumps([json.loads(os.read(read, 10_000)), totals()]))
    """) == [{"task.submitted": 2}, {"task.submitted": 1}]


@forks
def test_a_child_that_outlives_the_relay_counts_for_itself():
    assert scripted("""
        read, write = os.pipe()
        ready, go = os.pipe(), os.pipe()
        opened = relaying()

        def work():
            submit(1)
            os.write(ready[1], b".")
            os.read(go[0], 1)
            submit(2)
            os.write(write, json.dumps(totals()).encode())

        pid = child(work)
        os.read(ready[0], 1)
        opened.close()
        os.write(go[1], b".")
        reap(pid)
        print(json.dumps([json.loads(os.read(read, 10_000)), totals()]))
    """) == [{"task.submitted": 2}, {"task.submitted": 1}]


@forks
def test_a_child_whose_parent_is_gone_runs_on():
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
            opened = relaying()
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
        opened = relaying()

        def work():
            opened.close()
            number = participant.line._end.number
            lifecycle.leave(participant)
            with tempfile.TemporaryFile() as file:
                os.dup2(file.fileno(), number)
                submit(1)
                participant.line.close()
                assert file.seek(0, 2) == 0

        reap(child(work))
        opened.close()
        print(json.dumps("clean"))
    """)
        == "clean"
    )


@forks
def test_a_full_pipe_does_not_hold_a_child():
    dropped, _ = scripted(f"""
        import signal
        opened = relaying(count=lambda *_: threading.Event().wait())  # it reads no more
        pid = child(lambda: submit(20_000))
        signal.alarm({PATIENCE})
        reap(pid)
        print(json.dumps(["ended", 0]))
        sys.stdout.flush()
        os._exit(0)
    """)
    assert dropped == "ended"


@forks
def test_what_dead_children_told_is_known_at_once_and_told_once():
    assert scripted("""
        opened = relaying()
        words = [f"child {number}" for number in range(5)]

        def telling(word):
            def work():
                submit(50)
                assert participant.line.send("tell", word)
            return work

        reap(*[child(telling(word)) for word in words])
        print(json.dumps([sorted(opened.told()), sorted(opened.told())]))
    """) == [[f"child {number}" for number in range(5)], []]


@forks
def test_a_childs_child_that_stays_does_not_hold_who_asks():
    """It keeps the pipe open: there is no end to wait for."""
    assert scripted("""
        relay._READING_LIMIT = 1000
        opened = relaying()
        read, write = os.pipe()

        def stay():
            os.close(write)
            os.read(read, 1)

        def work():
            child(stay)
            participant.line.send("tell", "gone")

        reap(child(work))
        print(json.dumps(sorted(opened.told())))
        os.close(write)
    """) == ["gone"]


@forks
def test_half_reports_of_killed_children_do_not_pile_up():
    left, told, arrived = scripted("""
        import signal
        arrived = []
        opened = relaying(long=arrived.append)
        tell, told = os.pipe(), os.pipe()

        def grandchild():
            end = participant.line._end
            write = end.write

            def write_and_die(line):
                write(line)
                os.kill(os.getpid(), signal.SIGKILL)

            participant.line.send("tell", str(os.getpid()))
            end.write = write_and_die
            participant.line.send("long", "n" * 20_000)

        def work():
            for _ in range(40):
                os.waitpid(child(grandchild), 0)
            os.write(tell[1], b"!")
            os.read(told[0], 1)
            participant.line.send("long", "whole")

        pid = child(work)
        os.read(tell[0], 1)
        words = len(opened.told())
        (incoming,) = opened._incoming
        left = len(incoming._parts)
        os.write(told[1], b"!")
        reap(pid)
        opened.close()
        print(json.dumps([left, words, arrived]))
    """)
    assert 0 < left < 40
    assert (told, arrived) == (40, ["whole"])


@forks
def test_long_reports_of_several_children_at_once_arrive_whole():
    arrived, warnings = scripted("""
        import logging, time
        warnings = []
        handler = logging.Handler()
        handler.emit = lambda record: warnings.append(record.getMessage())
        logging.getLogger("otel_queue_bridge").addHandler(handler)

        arrived = []
        opened = relaying(
            long=lambda *report: arrived.append([*report[:2], report[2] == text(*report[:2])])
        )
        read, write = os.pipe()

        def text(number, turn):
            return f"{number} {turn} " * 3000

        def reporting(number):
            def work():
                os.close(write)
                os.read(read, 1)  # until all are there
                for turn in range(20):
                    while not participant.line.send("long", number, turn, text(number, turn)):
                        time.sleep(0.001)
            return work

        pids = [child(reporting(number)) for number in range(4)]
        os.close(write)
        reap(*pids)
        opened.close()
        print(json.dumps([arrived, warnings]))
    """)
    assert sorted(arrived) == [[number, turn, True] for number in range(4) for turn in range(20)]
    assert warnings == []
