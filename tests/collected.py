"""An SDK for one test: what its reader collects of our metrics, and the spans that have ended."""

from collections import Counter

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_queue_bridge.instruments import SCOPE


class Collected:
    """What a reader collects of ours, each time that it is asked."""

    def __init__(self, **options):
        self.reader = InMemoryMetricReader()
        self.provider = MeterProvider([self.reader], **options)

    def scopes(self):
        data = self.reader.get_metrics_data()
        resources = data.resource_metrics if data else ()
        scopes = [scope for resource in resources for scope in resource.scope_metrics]
        return [scope for scope in scopes if scope.scope.name == SCOPE]

    def metrics(self):
        """Return our metrics by name."""
        found = [metric for scope in self.scopes() for metric in scope.metrics]
        assert len({metric.name for metric in found}) == len(found)
        return {metric.name: metric for metric in found}

    def points(self, metric):
        found = self.metrics().get(metric)
        return [] if found is None else list(found.data.data_points)

    def totals(self, metric, *attributes):
        """Return count or value by the values of these attributes."""
        result = Counter()
        for point in self.points(metric):
            value = getattr(point, "value", None)
            key = tuple(point.attributes.get(name) for name in attributes)
            result[key] += point.count if value is None else value
        return dict(result)


class Recorded(Collected):
    """All that a queue records, if it is instrumented with these `options`."""

    def __init__(self):
        super().__init__()
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.options = {"tracer_provider": self.tracers, "meter_provider": self.provider}

    def spans(self):
        """Return the spans in order of their start."""
        return sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time)
