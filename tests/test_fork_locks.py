"""What a fork holds, and for how long: every lock of the SDK, bounded, and none afterwards."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.servers import LIMIT

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

PREAMBLE = """
import json, os, sys, threading
from opentelemetry import metrics, trace
from opentelemetry._logs import set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, InMemoryLogRecordExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter, InMemoryMetricReader, PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from otel_queue_bridge import instrument, uninstrument
from tests.forking import child, reap
from tests.servers import LIMIT

exporter = InMemorySpanExporter()
spans = BatchSpanProcessor(exporter)
tracers = TracerProvider()
tracers.add_span_processor(spans)
reader = InMemoryMetricReader()
periodic = PeriodicExportingMetricReader(ConsoleMetricExporter(), 3_600_000)
meters = MeterProvider([reader, periodic])
logs = BatchLogRecordProcessor(InMemoryLogRecordExporter())
loggers = LoggerProvider()
loggers.add_log_record_processor(logs)

def locks():
    return {
        "collection": meters._measurement_consumer._lock,
        "metrics": periodic._export_lock,
        "spans": spans._batch_processor._export_lock,
        "logs": logs._batch_processor._export_lock,
    }

def taken():
    return sorted(name for name, lock in locks().items() if lock.locked())

def make_global():
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    set_logger_provider(loggers)

at_forks = []  # what is held in the middle of a fork: these run before ours are let go

def look():
    at_forks.append(taken())

def fork(work=lambda: None):
    at_forks.clear()
    reap(child(work))
    return at_forks[0]

def leave(*result):
    print(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)

# What is registered last runs first before a fork, and what is registered first runs first after.
os.register_at_fork(after_in_parent=look)
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
    return json.loads(run.stdout)


ALL = ["collection", "logs", "metrics", "spans"]


def test_a_fork_holds_all_locks_though_nothing_of_ours_was_recorded():
    assert scripted("""
        make_global()
        instrument("rq")
        leave(fork(lambda: taken() == [] or 1 / 0), taken())
    """) == [ALL, []]


def test_an_sdk_that_is_set_up_after_us_is_found():
    assert scripted("""
        instrument("rq")
        make_global()
        leave(fork(), taken())
    """) == [ALL, []]


def test_providers_that_are_handed_to_us_are_found():
    assert scripted("""
        instrument("rq", tracer_provider=tracers, meter_provider=meters)
        leave(fork(), taken())
    """) == [["collection", "metrics", "spans"], []]


def test_an_uninstrumented_process_does_nothing_at_a_fork():
    assert scripted("""
        from otel_queue_bridge.forks import relay, sdk
        make_global()
        never = fork()
        instrument("rq")
        instrumented = fork()
        uninstrument()
        entered = []
        sdk.Held.__init__ = relay.opened = lambda *_: entered.append("something")
        leave(never, instrumented, fork(), entered)
    """) == [[], ALL, [], []]


@pytest.mark.parametrize("name", ALL)
def test_a_lock_that_another_thread_does_not_give_back_is_free_in_the_child(name):
    """The fork goes on without it, and the parent's thread keeps it."""
    assert scripted(f"""
        make_global()
        instrument("rq")
        held = locks()["{name}"]
        begun, go_on = threading.Event(), threading.Event()

        def holding():
            with held:
                begun.set()
                go_on.wait(LIMIT)

        thread = threading.Thread(target=holding)
        thread.start()
        begun.wait()

        def work():
            assert taken() == []
            with tracers.get_tracer("child").start_as_current_span("one"):
                pass
            assert tracers.force_flush()
            assert [span.name for span in exporter.get_finished_spans()] == ["one"]
            reader.collect()

        fork(work)
        still = taken()
        go_on.set()
        thread.join()
        leave(still, taken())
    """) == [[name], []]


def test_two_threads_that_fork_at_the_same_time_give_all_back():
    assert scripted("""
        make_global()
        instrument("rq")
        together = threading.Barrier(4)

        def forking():
            for _ in range(10):
                together.wait()
                reap(child(reader.collect))

        threads = [threading.Thread(target=forking) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        leave(taken())
    """) == [[]]


def test_a_fork_that_fails_gives_all_back():
    assert scripted("""
        import resource
        make_global()
        instrument("rq")
        if os.geteuid() == 0:  # no limit holds root back
            os.setresuid(65534, 65534, 65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
        try:
            os.fork()
        except BlockingIOError:
            leave(at_forks[0], taken())
    """) == [ALL, []]


def test_a_fork_out_of_a_callback_of_the_collection_itself_goes_on():
    """An observable of the user's that forks: the lock is its own thread's."""
    assert scripted("""
        make_global()
        instrument("rq")
        pids = []

        def forking(_):
            pids.append(child(lambda: None))
            return []

        meters.get_meter("user").create_observable_gauge("forks", [forking])
        reader.collect()
        reap(*pids)
        leave(taken())
    """) == [[]]
