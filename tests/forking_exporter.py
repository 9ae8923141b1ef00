"""A process that collects and exports all the time, and forks: for `test_fork_exports`.

Arguments: how many forks, over what it exports (grpc, http), and what is special (see below).
It prints how many children hung, and how many did not export within `flush_timeout`.
"""

import json
import os
import signal
import sys
import threading
import time

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

FORKS, OVER, SPECIAL = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
FLUSH_TIMEOUT = 15.0

if OVER == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
else:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter


def set_up():
    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=20))
    trace.set_tracer_provider(tracers)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=50)
    metrics.set_meter_provider(MeterProvider([reader]))


def slow(_):
    time.sleep(0.05)
    yield metrics.Observation(1)


if "SDK first" in SPECIAL:
    set_up()

import dramatiq  # noqa: E402 - as in an app, after the SDK or before it
from dramatiq.brokers.stub import StubBroker  # noqa: E402

if "without us" not in SPECIAL:
    import otel_queue_bridge
    from otel_queue_bridge.forks import sdk

    # On a machine that is busy enough an export lasts longer than a fork may wait for it.
    sdk._HOLDING_LIMIT = FLUSH_TIMEOUT  # noqa: SLF001 - it is no option
    otel_queue_bridge.instrument("dramatiq", flush_timeout=FLUSH_TIMEOUT)
if "SDK first" not in SPECIAL:
    set_up()

broker = StubBroker()
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="parent")
def add():
    pass


def submit(queue):
    broker.declare_queue(queue)
    broker.enqueue(add.message()._replace(queue_name=queue))


users = trace.get_tracer("user")
counter = metrics.get_meter("user").create_counter("users")
if "slow observable" in SPECIAL:
    metrics.get_meter("user").create_observable_gauge("slow", [slow])
over = threading.Event()


def busy():
    while not over.wait(0.002):
        with users.start_as_current_span("user"):
            counter.add(1)
        if "records" in SPECIAL:
            submit("parent")


threading.Thread(target=busy, daemon=True).start()
trace.get_tracer_provider().force_flush()


def child(number):
    began = time.monotonic()
    if "without us" in SPECIAL:
        with users.start_as_current_span(f"child {number}"):
            pass
        flushing = threading.Thread(target=trace.get_tracer_provider().force_flush, daemon=True)
        flushing.start()
        flushing.join(2.0)
        os._exit(7 if flushing.is_alive() else 0)
    submit(f"child {number}")
    from otel_queue_bridge import instrumentor

    instrumentor._bridges["dramatiq"].flush(metrics=True)  # noqa: SLF001 - as an adapter does
    os._exit(7 if time.monotonic() - began > FLUSH_TIMEOUT else 0)


hung = late = 0
for number in range(FORKS):
    pid = os.fork()
    if not pid:
        child(number)
    deadline = time.monotonic() + 60
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            hung += 1
            break
        time.sleep(0.001)
    else:
        late += os.waitstatus_to_exitcode(ended[1]) == 7
        continue
over.set()
print(json.dumps([hung, late]))
sys.stdout.flush()
os._exit(0)
