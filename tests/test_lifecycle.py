"""Where a process is forked and where it ends: telemetry neither hangs it nor garbles another's."""

import os
import subprocess
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from otel_queue_bridge.forks.lifecycle import flush
from tests.servers import LIMIT

PATIENCE = int(LIMIT)
"""Seconds after which something hangs for good."""


class Collector:
    """A provider whose export takes until it is let go."""

    def __init__(self):
        self.begun, self.let_go, self.done = (threading.Event() for _ in range(3))

    def force_flush(self):
        self.begun.set()
        self.let_go.wait(PATIENCE)
        self.done.set()


def test_a_hanging_collector_costs_the_timeout_and_no_more(caplog):
    collector = Collector()
    caller = threading.Thread(target=flush, args=(0.01, collector), daemon=True)
    caller.start()
    caller.join(PATIENCE)
    still_hanging = collector.begun.wait(PATIENCE) and not collector.done.is_set()
    returned = not caller.is_alive()
    collector.let_go.set()
    assert returned
    assert still_hanging
    (record,) = caplog.records
    assert "flush_timeout" in record.getMessage()
    assert str(os.getpid()) in record.getMessage()


def test_several_that_hang_are_one_warning(caplog):
    collectors = [Collector() for _ in range(3)]
    caller = threading.Thread(target=flush, args=(0.01, *collectors), daemon=True)
    caller.start()
    caller.join(PATIENCE)
    returned = not caller.is_alive()
    begun = all(collector.begun.wait(PATIENCE) for collector in collectors)
    done = any(collector.done.is_set() for collector in collectors)
    for collector in collectors:
        collector.let_go.set()
    assert returned
    assert begun
    assert not done
    assert len(caplog.records) == 1


def test_several_export_side_by_side():
    """One deadline for all: none may use it up before the next has begun."""
    together = threading.Barrier(3)
    met = []

    class Waiting:
        def force_flush(self):
            met.append(together.wait(PATIENCE))

    flush(PATIENCE, Waiting(), Waiting(), Waiting())
    assert sorted(met) == [0, 1, 2]


def test_one_that_is_given_twice_is_flushed_once():
    flushed = []

    class Counting:
        def force_flush(self):
            flushed.append(self)

    provider = Counting()
    flush(PATIENCE, provider, provider)
    assert flushed == [provider]


def test_a_hanging_collector_does_not_keep_the_process():
    code = f"""if True:
        import threading
        from otel_queue_bridge.forks.lifecycle import flush
        class Collector:
            def force_flush(self):
                threading.Event().wait({PATIENCE * 10})
        flush(0.01, Collector())
        print("gone")
    """
    run = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert run.stdout == "gone\n"


def test_a_collector_that_answers_is_waited_for(caplog):
    collector = Collector()
    collector.let_go.set()
    flush(PATIENCE, collector)
    assert collector.done.is_set()
    assert caplog.records == []


def test_no_time_means_no_flush():
    collector = Collector()
    flush(0, collector)
    assert not collector.begun.is_set()


def test_a_provider_that_cannot_flush_is_left_alone(caplog):
    flush(1, object(), None)
    assert caplog.records == []


def test_a_flush_that_fails_is_no_noise_and_keeps_no_other_from_exporting(monkeypatch, caplog):
    noise = []
    monkeypatch.setattr(threading, "excepthook", noise.append)

    class Failing:
        def force_flush(self):
            raise RuntimeError("secret@host")

    collector = Collector()
    collector.let_go.set()
    flush(PATIENCE, Failing(), collector)
    assert noise == []
    assert collector.done.is_set()
    (record,) = caplog.records
    assert "RuntimeError" in record.getMessage()
    assert "secret" not in caplog.text


class Connections:
    """An HTTP collector that keeps sockets alive and knows what came over which."""

    def __init__(self):
        arrived = self.arrived = defaultdict(list)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for name in ("before", "child", "after"):
                    if f"span {name}".encode() in body:
                        arrived[name].append(self.client_address)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def collector():
    connections = Connections()
    yield connections
    connections.close()


IMPORTING = """
import importlib, signal, sys, threading
import urllib3
from otel_queue_bridge.forks import lifecycle
from tests.forking import child, reap

class Participant:
    def providers(self):
        return ()

    def enter_child(self, line):
        pass

sys.begun, sys.go_on = threading.Event(), threading.Event()
lifecycle.join(Participant())
threading.Thread(target=importlib.import_module, args=("netrc",)).start()
sys.begun.wait()
threading.Timer(0.5, sys.go_on.set).start()

def work():
    signal.alarm(PATIENCE)
    import netrc

reap(child(work))
"""


def test_a_child_forked_while_an_export_imports_does_not_wait_for_that_for_ever(tmp_path):
    slow = "import sys\nsys.begun.set()\nsys.go_on.wait()\n"
    (tmp_path / "netrc.py").write_text(slow)
    program = IMPORTING.replace("PATIENCE", str(PATIENCE))
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[1])])
    subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": path}, check=True
    )


FORKING = """
import os, sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from otel_queue_bridge import instrument

kind = sys.argv[1]
if kind == "urllib3":
    from opentelemetry.exporter.http.transport._urllib3 import Urllib3HTTPTransport
    exporter = OTLPSpanExporter(_transport=Urllib3HTTPTransport())
    pools = lambda: [exporter._client._transport._pool.pools]
else:
    exporter = OTLPSpanExporter()
    session = getattr(exporter, "_session", None) or exporter._client._transport._session
    adapters = session.adapters
    own = [one for one in adapters.values() if hasattr(one, "poolmanager")]
    pools = lambda: [adapter.poolmanager.pools for adapter in own]
    if kind == "mounted":  # a user's adapter, without what those of requests have
        from requests.adapters import BaseAdapter
        session.mount("shop://", BaseAdapter())
processor = BatchSpanProcessor(exporter)
if kind == "wrapped":
    class Processor(BatchSpanProcessor):  # a module of the user's
        pass
    processor = Processor(exporter)
provider = TracerProvider()
provider.add_span_processor(processor)
if kind == "own":  # given to us, and never made the global one
    instrument(tracer_provider=provider)
else:
    trace.set_tracer_provider(provider)
if kind != "unpatched":
    instrument()

def export(name):
    with provider.get_tracer("test").start_as_current_span("span " + name):
        pass
    assert provider.force_flush()

export("before")
before = pools()
reader, writer = os.pipe()
child = os.fork()
if not child:
    fresh = [now is not then for now, then in zip(pools(), before, strict=True)]
    export("child")
    os.write(writer, b"fresh" if all(fresh) else b"inherited")
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
os.close(writer)
print(os.read(reader, 100).decode(), all(now is then for now, then in zip(pools(), before)))
export("after")
"""


def forked(collector, kind, **variables):
    """Export before a fork, in the child, and in the parent again; return what it printed."""
    environment = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    }
    environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, kind],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**environment, **variables},
    )
    if run.returncode:
        raise RuntimeError(run.stderr)
    return run.stdout.split()


@pytest.mark.parametrize(
    "kind",
    [
        "requests",
        "urllib3",
        "own",
        "wrapped",
        "mounted",
    ],
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_a_forked_child_exports_over_a_connection_of_its_own(collector, kind):
    if kind == "urllib3":
        pytest.importorskip("opentelemetry.exporter.http.transport._urllib3")
    assert forked(collector, kind) == ["fresh", "True"]
    (before,), (child,), (after,) = (collector.arrived[n] for n in ("before", "child", "after"))
    assert child != before
    assert after == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_it_does_behind_a_proxy_too(collector):
    endpoint = "http://collector.invalid:4318"
    forked(collector, "requests", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, HTTP_PROXY=collector.url)
    (before,), (child,) = collector.arrived["before"], collector.arrived["child"]
    assert child != before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
def test_without_us_the_child_writes_on_its_parents_connection(collector):
    """Else the tests above could not fail, and there would be nothing to do."""
    assert forked(collector, "unpatched") == ["inherited", "True"]
    assert collector.arrived["child"] == collector.arrived["before"]
