"""Forks while the SDK is at work: no child hangs, and none exports what its parent counted.

Each in a process of its own, with the SDK's own reader and its thread: what is to be shown
depends on which locks other threads hold at the moment of the fork.
"""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from tests.servers import LIMIT

PATIENCE = int(LIMIT)
"""Seconds after which something hangs for good."""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")

PREAMBLE = """
import json, os, signal, sys, threading, time
from collections import Counter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from otel_queue_bridge import instruments, semconv
from otel_queue_bridge.adapter import SUCCESS, Reading, Task
from otel_queue_bridge.config import load
from otel_queue_bridge.forks import lifecycle, relay
from otel_queue_bridge.forks.sdk import Held
from otel_queue_bridge.metrics import Measurements

class Exporter(MetricExporter):
    '''Slow, so that a fork falls into an export; it tells what it exported over a pipe.'''

    def __init__(self, delay):
        super().__init__()
        self.delay, self.exports = delay, 0
        self.read, self.write = os.pipe()

    def export(self, data, timeout_millis=0, **_):
        time.sleep(self.delay)  # a collector's answer, over the network
        self.exports += 1
        for name, value, scope in values(data):
            if os.getpid() != PARENT:
                os.write(self.write, json.dumps([name, value, scope]).encode() + b"\\n")
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis=0):
        return True

    def shutdown(self, timeout_millis=0, **_):
        pass


def values(data):
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    value = getattr(point, "value", None)
                    yield metric.name, point.count if value is None else value, scope.scope.name


PARENT = os.getpid()
exporter = Exporter(float(sys.argv[1]))
reader = PeriodicExportingMetricReader(exporter, export_interval_millis=float(sys.argv[2]))
provider = MeterProvider([reader])
busy = 0  # seconds until a forked child, whose reader runs again, comes to what we do in it
os.register_at_fork(after_in_child=lambda: time.sleep(busy))
measured = Measurements("fake", load({"meter_provider": provider}, environment={}))


class Participant:
    def providers(self):
        return (provider,)

    def enter_child(self, line):
        measured.report_to(line.count if line is not None else None)


lifecycle.join(Participant())


def count(system, key, value, *facts):
    measured.record(key, value, *facts)


def record(number=0):
    task = Task(f"task {number % 5}", "queue")
    measured.submitted(task, None, 0.01)
    measured.dispatched(task, None)
    measured.attempted(task, SUCCESS, None, 0.1, 0.2)


def ended(pid, deadline):
    '''Return the exit code of a child, or None, and kill it, if it hangs.'''
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def exported():
    os.close(exporter.write)
    with os.fdopen(exporter.read) as lines:
        return [json.loads(line) for line in lines]


def leave(result):
    print(json.dumps(result))
    sys.stdout.flush()
    os._exit(0)  # the SDK's shutdown is no part of this
"""


def scripted(code, delay=0.0, interval=50.0):
    """Run the preamble and `code`; return what it printed, decoded."""
    run = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-c"),
            PREAMBLE + textwrap.dedent(code),
            *(str(delay), str(interval), str(PATIENCE)),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout), run.stderr


STRESS = """
measured.watch(semconv.WORKERS, lambda: [Reading(3)])
{relay}
over = threading.Event()

def recording(number):
    while not over.is_set():
        record(number)
        number += 1

for number in range(4):
    threading.Thread(target=recording, args=(number,), daemon=True).start()

hung, ends = [], Counter()
for number in range({forks}):
    pid = os.fork()
    if not pid:
        record(number)
        os._exit(7)
    end = ended(pid, time.monotonic() + {patience})
    ends[str(end)] += 1
    if end is None:
        hung.append(number)
        break
over.set()
leave([hung, ends, exporter.exports])
"""


def stressed(forks, patience, setting):
    code = STRESS
    for name, value in (("forks", forks), ("patience", patience), ("relay", setting)):
        code = code.replace(f"{{{name}}}", str(value))
    (hung, ends, exports), _ = scripted(code, delay=0.02, interval=5)
    return hung, ends, exports


@pytest.mark.parametrize(
    ("forks", "setting"),
    [
        pytest.param(1000, "", id="alone"),
        pytest.param(300, 'opened = relay.Relay(lambda: {"count": count}, 20)', id="relayed"),
    ],
)
def test_no_child_hangs_that_is_forked_while_threads_record_and_the_reader_exports(forks, setting):
    hung, ends, exports = stressed(forks, PATIENCE, setting)
    assert hung == []
    assert ends == {"7": forks}
    assert exports > 10, "the reader was at work"


WITHOUT_US = "lifecycle._participants.clear(); lifecycle.all_instruments = list"


def test_without_us_children_hang():
    """Else the test above could not fail, and there would be nothing to do."""
    hung, _, _ = stressed(1000, 2, WITHOUT_US)
    assert hung


LONG_LIVED = """
theirs = provider.get_meter("user").create_counter("theirs")
theirs.add(3)
for number in range(10):
    record(number)
measured.watch(semconv.WORKERS, lambda: [Reading(3)])
assert provider.force_flush()  # what it exports from here on is cumulative
pid = os.fork()
if not pid:
    {child}
    at = exporter.exports
    while exporter.exports < at + 5:
        time.sleep(0.005)
    os._exit(0)
assert ended(pid, time.monotonic() + float(sys.argv[3])) == 0
leave(sorted(map(list, set(map(tuple, exported())))))
"""


def test_a_long_lived_child_exports_nothing_that_it_inherited():
    """Its reader runs on: what the user's own instruments export shows that."""
    exported, _ = scripted(LONG_LIVED.replace("{child}", ""))
    assert exported == [["theirs", 3, "user"]]


def test_nor_does_a_child_that_is_forked_after_an_undo():
    undo = "for one in lifecycle.participants(): lifecycle.leave(one)"
    exported, _ = scripted(undo + LONG_LIVED.replace("{child}", ""))
    assert exported == [["theirs", 3, "user"]]


def test_nor_does_a_child_on_a_busy_machine_whose_reader_is_faster_than_we_are():
    exported, _ = scripted("busy = 0.5" + LONG_LIVED.replace("{child}", ""), interval=20)
    assert exported == [["theirs", 3, "user"]]


def test_what_it_records_itself_begins_with_nothing():
    exported, _ = scripted(LONG_LIVED.replace("{child}", "record()"))
    assert exported == [
        ["task.completed", 1, "otel_queue_bridge"],
        ["task.dispatched", 1, "otel_queue_bridge"],
        ["task.duration", 1, "otel_queue_bridge"],
        ["task.submitted", 1, "otel_queue_bridge"],
        ["task.wait", 1, "otel_queue_bridge"],
        ["theirs", 3, "user"],
    ]


def test_without_us_it_exports_its_parents():
    code = WITHOUT_US + LONG_LIVED
    # At no interval: without us the child hangs if it is forked while the reader is at work.
    code = code.replace("{child}", "").replace("time.sleep(0.005)", "reader.collect()")
    exported, _ = scripted(code, interval=3_600_000)
    # What our hook undoes comes before the child's first line: so it is taken out before.
    assert ["task.duration", 2, "otel_queue_bridge"] in exported
    assert ["task.submitted", 2, "otel_queue_bridge"] in exported


def test_a_child_forked_in_the_middle_of_an_export_exports_by_itself():
    """The reader held its lock, which nobody in the child would ever release."""
    exported, _ = scripted(
        """
        record()
        exporter.delay = 0
        reached, let_go = os.pipe(), threading.Event()

        class Stopping(Exporter):
            pass

        def export(data, timeout_millis=0, **_):
            os.write(reached[1], b"!")
            let_go.wait(2 * float(sys.argv[3]))
            return MetricExportResult.SUCCESS

        plain, exporter.export = exporter.export, export
        os.read(reached[0], 1)  # the reader is inside the exporter
        pid = os.fork()
        if not pid:
            exporter.export = plain
            record()
            assert provider.force_flush()
            os._exit(0)
        end = ended(pid, time.monotonic() + float(sys.argv[3]))
        let_go.set()
        leave([end, sorted({name for name, *_ in exported()})])
        """
    )
    assert exported == [
        0,
        ["task.completed", "task.dispatched", "task.duration", "task.submitted", "task.wait"],
    ]


def test_a_child_forked_while_our_instruments_wait_for_a_collection_has_them_all():
    """The SDK takes an instrument in several steps, and observes it after the last."""
    exported, log = scripted(
        """
        lock = provider._measurement_consumer._lock
        lock.acquire()  # as a collection does that is under way
        record()
        pid = os.fork()
        if not pid:
            record()
            assert provider.force_flush()
            os._exit(0)
        end = ended(pid, time.monotonic() + 20)
        lock.release()
        leave([end, sorted({name for name, *_ in exported()})])
        """,
        interval=3_600_000,
    )
    assert exported == [
        0,
        ["task.completed", "task.dispatched", "task.duration", "task.submitted", "task.wait"],
    ]
    assert log == ""


def test_the_sdk_keeps_its_metrics_where_we_look_for_them():
    """If this fails, the SDK has changed: see `forks.sdk`.

    The tests above then fail as well, or the warning is all that is left of the clearing.
    """
    result, log = scripted(
        """
        record()
        consumer = provider._measurement_consumer
        then = []
        for reader, storage in consumer._reader_storages.items():
            then += [storage._lock]
            ours = [
                instrument.name
                for instrument in storage._instrument_view_instrument_matches
                if instrument.instrumentation_scope.name == instruments.SCOPE
            ]
        held = Held([provider])
        taken = [consumer._lock.locked(), reader._export_lock.locked()]
        held.start_over()
        held.release()
        now, left = [], []
        for reader, storage in consumer._reader_storages.items():
            now += [storage._lock]
            left += storage._instrument_view_instrument_matches
        fresh = all(new is not old and type(new) is type(old) for new, old in zip(now, then))
        free = not (consumer._lock.locked() or reader._export_lock.locked())
        leave([sorted(ours), len(left), taken, fresh, free])
        """,
        interval=3_600_000,
    )
    assert result[0] == ["task.duration", "task.wait"]
    assert result[1:] == [0, [True, True], True, True]
    assert log == ""


@pytest.mark.parametrize(
    "moved",
    [
        'vars(consumer).pop("_reader_storages")',
        'vars(consumer._reader_storages[reader]).pop("_instrument_view_instrument_matches")',
    ],
)
def test_an_sdk_that_keeps_them_elsewhere_is_reported_and_does_not_fail_the_fork(moved):
    result, log = scripted(
        f"""
        record()
        consumer = provider._measurement_consumer
        {moved}
        pid = os.fork()
        if not pid:
            os._exit(7)
        leave(ended(pid, time.monotonic() + float(sys.argv[3])))
        """,
        interval=3_600_000,
    )
    assert result == 7
    assert log.count("this SDK keeps its metrics elsewhere") == 1


def test_all_is_found_among_many_instruments_and_attribute_sets():
    result, log = scripted(
        """
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        import requests

        for number in range(1000):
            histogram = provider.get_meter(f"user {number % 10}").create_histogram(f"h{number}")
            histogram.record(1, {"number": number})
        tracers = TracerProvider()
        processor = BatchSpanProcessor(InMemorySpanExporter())
        processor._batch_processor._exporter.session = requests.Session()
        tracers.add_span_processor(processor)
        kept = [tracers.get_tracer(f"user {number}") for number in range(1000)]
        held = Held([provider, tracers])
        result = [
            provider._measurement_consumer._lock.locked(),
            reader._export_lock.locked(),
            processor._batch_processor._export_lock.locked(),
            len(held._connections),
        ]
        held.release()
        leave(result)
        """,
        interval=3_600_000,
    )
    assert result == [True, True, True, 1]
    assert log == ""
