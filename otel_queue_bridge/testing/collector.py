"""The spans of a test whose workers are other processes: `queue_collector` is one of these."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from otel_queue_bridge.otlp import Receiver
from otel_queue_bridge.testing.spans import QueueSpans, origins

if TYPE_CHECKING:
    from otel_queue_bridge.otlp import Span


class SharedReceiver(Receiver):
    """Receives for all tests of a run, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.earlier: set[tuple[str, str]] = set()
        """The ids of the spans of tests before this one."""

    def next_test(self) -> None:
        with self._arrived:
            self.earlier.update((span.trace_id, span.span_id) for span in self._spans)
            self.clear()


class QueueCollector(QueueSpans):
    """The spans of one test, of its process and of others that were started with `env`."""

    _patience = 60.0

    def __init__(self, own: QueueSpans, receiver: SharedReceiver) -> None:
        super().__init__(receiver, own.tracer_provider, own.exporter)
        receiver.next_test()
        own.exporter.receivers.append(receiver)
        self._own = own
        self._shared = receiver
        self._begin = time.time_ns()
        self.env = environment(receiver)
        """The variables that have a process export to here, soon."""

    def spans(self) -> list[Span]:
        """Return all spans of this test that have arrived, in order of their start.

        What another test has submitted, and a worker runs only now, is not among them.
        """
        found = []
        earlier = self._shared.earlier
        own = {(span.trace_id, span.span_id) for span in self._own.spans()}
        for span in super().spans():
            ids = (span.trace_id, span.span_id)
            # The clock of this process may be one that a test has set.
            began = ids in own or span.start >= self._begin
            if began and earlier.isdisjoint(origins(span)):
                found.append(span)
            else:
                earlier.add(ids)
        return found

    def _hint(self) -> str:
        if reasons := self._receiver.rejected:
            return f"; refused: {', '.join(sorted(set(reasons)))}"
        if self._receiver.raw():
            return ""
        return (
            "; no other process has exported anything: was it started with queue_collector.env, "
            "and under opentelemetry-instrument?"
        )


def environment(receiver: Receiver) -> dict[str, str]:
    """Return the variables that have a process export to this receiver, soon."""
    endpoint, protocol = receiver.endpoint, "http/protobuf"
    outer = os.environ
    in_the_way = {  # what the test run itself may have been given, and would go first
        "OTEL_SDK_DISABLED": "false",
        "OTEL_TRACES_SAMPLER": "always_on",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{endpoint}/v1/traces",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{endpoint}/v1/metrics",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": protocol,
        "no_proxy": f"{outer.get('no_proxy')},127.0.0.1".lstrip(","),
        # They may hold a key, and belong to another endpoint.
        "OTEL_EXPORTER_OTLP_HEADERS": "",
        "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "",
        "OTEL_EXPORTER_OTLP_METRICS_HEADERS": "",
    }
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "NO_PROXY": f"{outer.get('NO_PROXY', '')},127.0.0.1".lstrip(","),
        **{name: value for name, value in in_the_way.items() if name in outer},
    }
