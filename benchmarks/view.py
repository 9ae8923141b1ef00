"""What `otel-queue-bridge view` costs: `make bench-view`.

It is fed by the SDK's own exporter from another process, as an app would.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import otel_queue_bridge

SPANS = 100_000
BATCH = 500
FEED = f"""
import time
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
import sys

kept = InMemorySpanExporter()
provider = TracerProvider(resource=Resource.create({{"service.name": "bench"}}))
provider.add_span_processor(SimpleSpanProcessor(kept))
tracer = provider.get_tracer("bench")
for number in range({BATCH} // 4):
    with tracer.start_as_current_span("POST /x"):
        for step in ("submit", "dispatch", "execute"):
            tracer.start_span(f"{{step}} t", attributes={{
                "messaging.system": "celery", "messaging.operation.name": step,
                "messaging.destination.name": "default", "messaging.message.id": f"t{{number}}",
                "task.name": "t", "task.status": "success", "task.wait": 0.1}}).end()
batch = kept.get_finished_spans()
exporter = OTLPSpanExporter(sys.argv[1] + "/v1/traces")
for _ in range({SPANS} // {BATCH}):
    for span in batch:  # a trace each time
        span._context = span.context.__class__(
            (span.context.trace_id + 1) % 2**128, (span.context.span_id + 1) % 2**64, False)
    assert exporter.export(batch) is SpanExportResult.SUCCESS
"""


def main() -> None:
    command = [sys.executable, "-m", "otel_queue_bridge", "view", "--port", "0", "--grpc-port", "0"]
    view = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own
    try:
        said = view.stdout.readline() if view.stdout else ""
        address = said.split()[1]
        before = _resident(view.pid)
        sizes = []
        cpu = _cpu(view.pid)
        for _ in range(2):
            subprocess.run([sys.executable, "-c", FEED, address], check=True)  # noqa: S603
            sizes.append(_resident(view.pid))
        cpu = _cpu(view.pid) - cpu
        print(f"RSS, MB                       {before:6.1f} idle")
        for times, size in enumerate(sizes, 1):
            print(f"                              {size:6.1f} after {times * SPANS:,} spans")
        print(f"spans for a second of its CPU {2 * SPANS / cpu:6.0f}")
        print(f"a row after its span, ms      {_delay(address) * 1e3:6.0f}")
    finally:
        view.terminate()
        view.wait()
    page = Path(otel_queue_bridge.__file__).parent / "view" / "page"
    print(
        f"the page, KB                  {sum(f.stat().st_size for f in page.iterdir()) / 1e3:6.1f}"
    )


def _resident(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1e3


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _delay(address: str) -> float:
    """Return how many seconds after a POST its row is sent to a page that listens."""
    host = address.removeprefix("http://")
    page, app = HTTPConnection(host), HTTPConnection(host)
    page.request("GET", "/api/events?text=slow")
    events = page.getresponse()
    now = str(time.time_ns())
    span = {
        "traceId": secrets.token_hex(16),
        "spanId": secrets.token_hex(8),
        "name": "slow",
        "startTimeUnixNano": now,
        "endTimeUnixNano": now,
    }
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]})
    begun = time.perf_counter()
    app.request("POST", "/v1/traces", body, {"Content-Type": "application/json"})
    app.getresponse().read()
    while b"event: trace" not in events.readline():
        pass
    app.close()
    page.close()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
