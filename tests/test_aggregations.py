"""What we feed into the SDK's aggregations arrives as if `Histogram.record` had been called."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter, Histogram, MeterProvider
from opentelemetry.sdk.metrics._internal import _MeterConfig
from opentelemetry.sdk.metrics._internal import instrument as sdk_instrument
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.trace import TracerProvider

from otel_queue_bridge import aggregations, semconv
from otel_queue_bridge.instruments import instruments_of

SETS = [
    (("task.name", f"task {number % 7}"), ("task.status", f"status {number % 3}"))
    for number in range(21)
]
TRACER = TracerProvider().get_tracer("user")


def reader(temporality=AggregationTemporality.CUMULATIVE):
    return InMemoryMetricReader(preferred_temporality={Histogram: temporality})


def values(number):
    """Values from far below the first bucket to above the last, the same at each call."""
    dice = random.Random(number)  # noqa: S311 - no secret
    return [(dice.choice(SETS), 10 ** dice.uniform(-6, 5)) for _ in range(number)]


class Ours:
    def __init__(self, provider):
        instruments = instruments_of(provider)
        histogram = instruments.histogram("times", "s", "Times")
        instruments.register()
        self._cells = {attributes: histogram.cell(attributes) for attributes in SETS}

    def record(self, attributes, value):
        self._cells[attributes].record(value)


class Plain:
    def __init__(self, provider):
        self._histogram = provider.get_meter("plain").create_histogram(
            "times", "s", "Times", explicit_bucket_boundaries_advisory=semconv.BUCKETS
        )

    def record(self, attributes, value):
        self._histogram.record(value, dict(attributes))


def record(histogram, recorded):
    """Some of it in a span that is sampled, which then becomes an exemplar."""
    for number, (attributes, value) in enumerate(recorded):
        span = TRACER.start_span("execute", context.Context()) if number % 3 else trace.INVALID_SPAN
        with trace.use_span(span, end_on_exit=True):
            histogram.record(attributes, value)


def collected(reader):
    """All points by their attributes, without times and ids, which are never the same twice."""
    data = reader.get_metrics_data()
    if data is None:
        return {}
    points = {}
    for scope in data.resource_metrics[0].scope_metrics:
        for metric in scope.metrics:
            for point in metric.data.data_points:
                shown = asdict(point)
                exemplars = shown.pop("exemplars")
                for time in ("start_time_unix_nano", "time_unix_nano"):
                    del shown[time]
                shown["exemplars"] = [
                    (one["value"], one["filtered_attributes"]) for one in exemplars
                ]
                assert all(one["span_id"] for one in exemplars)
                points[(metric.name, *sorted(point.attributes.items()))] = shown
    return points


SETTINGS = {
    "cumulative": lambda: {"metric_readers": [reader()]},
    "delta": lambda: {"metric_readers": [reader(AggregationTemporality.DELTA)]},
    "both": lambda: {"metric_readers": [reader(), reader(AggregationTemporality.DELTA)]},
    "two readers": lambda: {"metric_readers": [reader(), reader()]},
    "a view with fewer attributes": lambda: {
        "metric_readers": [reader()],
        "views": [View(instrument_name="times", attribute_keys={"task.name"})],
    },
    "two views": lambda: {
        "metric_readers": [reader()],
        "views": [
            View(instrument_name="times", name="exponential",
                 aggregation=ExponentialBucketHistogramAggregation()),
            View(instrument_name="times", name="explicit"),
        ],
    },
    "dropped": lambda: {
        "metric_readers": [reader()],
        "views": [View(instrument_name="times", aggregation=DropAggregation())],
    },
    "no exemplars": lambda: {
        "metric_readers": [reader()],
        "exemplar_filter": AlwaysOffExemplarFilter(),
    },
    "few attribute sets": lambda: {
        "metric_readers": [reader()],
        "views": [View(instrument_name="times", aggregation_cardinality_limit=5)],
    },
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
def test_it_arrives_as_if_recorded_publicly(setting):
    seen = []
    for kind in (Ours, Plain):
        settings = SETTINGS[setting]()
        provider = MeterProvider(**settings, shutdown_on_exit=False)
        histogram = kind(provider)
        random.seed(1)  # exponential histograms choose their exemplars at random
        found = []
        for number in (1000, 2000, 3):
            record(histogram, values(number))
            found.append([collected(each) for each in settings["metric_readers"]])
        provider.shutdown()
        seen.append(found)
    ours, plain = seen
    assert ours == plain
    assert any(point["exemplars"] for point in ours[0][0].values()) == (
        setting not in ("no exemplars", "dropped")
    )


def test_a_reader_that_comes_late_sees_what_comes_after_it():
    seen = []
    for kind in (Ours, Plain):
        first, late = reader(), reader()
        provider = MeterProvider([first], shutdown_on_exit=False)
        histogram = kind(provider)
        record(histogram, values(500))
        provider.add_metric_reader(late)
        record(histogram, values(400))
        seen.append([collected(first), collected(late)])
        provider.remove_metric_reader(late)
        record(histogram, values(300))
        seen[-1].append(collected(first))
        provider.shutdown()
    assert seen[0] == seen[1]
    assert sum(point["count"] for point in seen[0][1].values()) == 400


@pytest.fixture
def public(monkeypatch):
    """The values that were passed to `Histogram.record`."""
    recorded = []
    original = sdk_instrument.Histogram.record

    def counted(self, amount, *args, **kwargs):
        recorded.append(amount)
        return original(self, amount, *args, **kwargs)

    monkeypatch.setattr(sdk_instrument.Histogram, "record", counted)
    return recorded


@pytest.mark.parametrize(
    ("temporality", "each"),
    [(AggregationTemporality.CUMULATIVE, 1), (AggregationTemporality.DELTA, 50)],
)
def test_this_sdk_is_as_we_know_it(public, temporality, each):
    """If the SDK changes inside, every value goes through `record` again: right, but dearer."""
    provider = MeterProvider([reader(temporality)], shutdown_on_exit=False)
    histogram = Ours(provider)
    for attributes in SETS:
        for _ in range(50):
            histogram.record(attributes, 0.1)
    provider.shutdown()
    assert len(public) == len(SETS) * each


def test_a_meter_that_is_switched_off_records_nothing(public):
    first = reader()
    provider = MeterProvider([first], shutdown_on_exit=False)
    histogram = Ours(provider)
    meter = instruments_of(provider).meter
    for is_enabled in (True, False, True):
        meter._set_meter_config(_MeterConfig(is_enabled))  # noqa: SLF001 - what a user's configurator does
        for _ in range(3):
            histogram.record(SETS[0], 0.1)
    (point,) = collected(first).values()
    provider.shutdown()
    assert (point["count"], len(public)) == (6, 1)


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_what_is_no_time_is_left_to_the_sdk_to_refuse(value, caplog):
    first = reader()
    provider = MeterProvider([first], shutdown_on_exit=False)
    histogram = Ours(provider)
    for one in (0.1, value, 0.2):
        histogram.record(SETS[0], one)
    (point,) = collected(first).values()
    provider.shutdown()
    assert point["count"] == 2
    assert len(caplog.records) == 1


def test_an_sdk_that_is_different_inside_gets_all_through_record(public, monkeypatch):
    monkeypatch.delattr(aggregations, "_hash_attributes")
    provider = MeterProvider([reader()], shutdown_on_exit=False)
    histogram = Ours(provider)
    for _ in range(3):
        histogram.record(SETS[1], 0.1)
    provider.shutdown()
    assert len(public) == 3
