"""The instruments of one provider: bounded, and never in the way of a task."""

import threading

import pytest
from opentelemetry.metrics import Observation

from otel_queue_bridge import semconv
from otel_queue_bridge.instruments import Counter, Histogram, all_instruments, instruments_of
from tests.collected import Collected
from tests.servers import LIMIT, wait_until

SETS = 2000
"""Attribute sets of one instrument."""
OVERFLOW = ((semconv.OVERFLOW, True),)


@pytest.fixture
def sdk():
    sdk = Collected()
    yield sdk
    sdk.provider.shutdown()


def attributes(number):
    return (("task.name", f"task {number}"),)


def counter(sdk):
    return instruments_of(sdk.provider).counter("tasks", "{task}", "Tasks")


def histogram(sdk):
    return instruments_of(sdk.provider).histogram("times", "s", "Times")


# Bounds


@pytest.mark.parametrize(("instrument", "name"), [(counter, "tasks"), (histogram, "times")])
def test_an_instrument_holds_so_many_attribute_sets_and_one_for_all_others(sdk, instrument, name):
    made = instrument(sdk)
    instruments_of(sdk.provider).register()
    record_many(made)
    points = sdk.points(name)
    assert len(points) == SETS + 1
    assert sdk.totals(name, semconv.OVERFLOW) == {(None,): SETS + 1, (True,): 501}
    assert sdk.totals(name, "task.name")["task 7",] == 2
    (overflow,) = [point for point in points if semconv.OVERFLOW in point.attributes]
    assert dict(overflow.attributes) == {"otel.metric.overflow": True}


def record_many(instrument):
    for number in range(SETS + 500):
        record(instrument, number)
    record(instrument, 7)  # known already
    record(instrument, SETS + 7)


def record(instrument, number):
    cell = instrument.cell(attributes(number))
    if isinstance(instrument, Counter):
        cell.add()
    else:
        cell.record(0.1)


def test_the_bound_is_ours_whatever_the_sdk_makes_of_it():
    """Older ones have none; and what we hold must not grow either."""
    passed_on = []

    class Unbounded:
        def record(self, value, attributes):
            passed_on.append(tuple(attributes.items()))

    tasks, times = Counter(), Histogram()
    times.start(Unbounded())
    for made in (tasks, times):
        record_many(made)
    counted = {tuple(seen.attributes.items()): seen.value for seen in tasks.observe(None)}
    assert len(counted) == len(set(passed_on)) == SETS + 1
    assert counted[OVERFLOW] == passed_on.count(OVERFLOW) == 501


def test_a_table_that_is_cleared_has_room_again(sdk):
    made = counter(sdk)
    for number in range(SETS + 1):
        record(made, number)
    instruments_of(sdk.provider).start_from_nothing()
    record(made, SETS)
    assert [dict(seen.attributes) for seen in made.observe(None)] == [dict(attributes(SETS))]


# Registering


class Slow:
    """A callback of the user's that takes until it is released."""

    def __init__(self, sdk):
        self.waits = threading.Event()
        self.released = threading.Event()
        sdk.provider.get_meter("user").create_observable_gauge("slow", [self])
        self._collection = threading.Thread(target=sdk.reader.get_metrics_data)

    def __call__(self, _):
        self.waits.set()
        self.released.wait(2 * LIMIT)
        return [Observation(1)]

    def __enter__(self):
        self._collection.start()
        assert self.waits.wait(LIMIT)
        return self

    def __exit__(self, *_):
        self.released.set()
        self._collection.join()


def registered():
    """Wait until the SDK knows all of ours."""
    name = "otel_queue_bridge.register"
    wait_until(lambda: all(thread.name != name for thread in threading.enumerate()))


def record_in_a_thread(record):
    """Return the thread, which has ended unless something held it up for good."""
    thread = threading.Thread(target=record, daemon=True)
    thread.start()
    thread.join(LIMIT)
    return thread


def test_what_is_recorded_first_waits_for_no_collection_and_nothing_is_lost(sdk):
    tasks, times = counter(sdk), histogram(sdk)
    instruments = instruments_of(sdk.provider)

    def record_many_times():
        instruments.register()
        for number in range(3000):
            record(tasks, number % 7)
            record(times, number % 7)

    with Slow(sdk) as slow:
        recording = record_in_a_thread(record_many_times)
        assert not recording.is_alive(), "it waits for a callback of the user's"
        assert not slow.released.is_set()
    registered()
    for name in ("tasks", "times"):
        assert sdk.totals(name) == {(): 3000}, name


def test_several_that_record_first_at_once_make_each_instrument_once(sdk, caplog):
    instruments = instruments_of(sdk.provider)
    together = threading.Barrier(8)

    def record_at_once():
        together.wait(LIMIT)
        tasks, times = counter(sdk), histogram(sdk)
        instruments.register()
        for _ in range(10):
            record(tasks, 1)
            record(times, 1)

    with Slow(sdk):
        threads = [threading.Thread(target=record_at_once) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    registered()
    assert (sdk.totals("tasks"), sdk.totals("times")) == ({(): 80}, {(): 80})
    assert caplog.records == []


def test_an_instrument_that_the_sdk_refuses_costs_one_line(sdk, caplog):
    instruments = instruments_of(sdk.provider)
    made = instruments.counter("no name for a metric", "{task}", "Tasks")
    for _ in range(2):
        instruments.register()
        record(made, 1)
    (warning,) = caplog.records
    assert (warning.name, warning.levelname) == ("otel_queue_bridge", "WARNING")
    assert "no name for a metric" in warning.getMessage()
    assert sdk.metrics() == {}


# Whose they are


def test_there_is_one_set_for_each_provider(sdk):
    other = Collected()
    together, found = threading.Barrier(8), []

    def find():
        together.wait(LIMIT)
        found.append(instruments_of(sdk.provider))

    threads = [threading.Thread(target=find) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert instruments_of(other.provider) is not found[0]
    assert {id(provider) for provider, _ in all_instruments()} >= {
        id(sdk.provider),
        id(other.provider),
    }
    other.provider.shutdown()
