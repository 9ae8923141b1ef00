"""pytest's fixtures, as users have them: in runs of pytest that start from nothing."""

import re
import subprocess
import sys

import pytest

from otel_queue_bridge.otlp import Receiver
from otel_queue_bridge.testing.collector import environment
from tests.servers import LIMIT

ARGUMENTS = ("-W", "error", "-p", "no:cacheprovider")
# Plugins that users may not have, and that take long to import.
ARGUMENTS += ("-p", "no:anyio", "-p", "no:benchmark", "-p", "no:hypothesispytest")


@pytest.fixture
def run(pytester, monkeypatch):
    """Run pytest on files whose content is given by their names; return its results."""
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments, **files):
        pytester.makepyfile(**files)
        return pytester.runpytest_subprocess(*ARGUMENTS, *arguments, timeout=4 * LIMIT)

    return run


def output(result):
    return "\n".join(line.rstrip() for line in result.outlines)


IN_PROCESS = '''
import os
import sys

import pytest


def test_celery_eager(queue_spans):
    from celery import Celery

    app = Celery("shop")
    app.conf.task_always_eager = True

    @app.task(name="shop.pack")
    def pack():
        ship.delay()
        count.delay()

    @app.task(name="shop.ship", bind=True, max_retries=1)
    def ship(self):
        raise self.retry(exc=OSError(), countdown=0)

    @app.task(name="shop.count")
    def count():
        pass

    with queue_spans.span("checkout"):
        pack.delay()
    queue_spans.assert_traced(parent="checkout", task="shop.ship", timeout=0)
    assert queue_spans.tree() == """\\
checkout
└─ submit shop.pack
   └─ execute shop.pack
      ├─ submit shop.count
      │  └─ execute shop.count
      └─ submit shop.ship
         ├─ execute shop.ship (retry, ERROR OSError)
         └─ submit shop.ship
            └─ execute shop.ship (failure, ERROR OSError)"""
    [failed] = queue_spans.wait(task="shop.ship", status="failure")
    assert (failed.name, failed.kind, failed.status) == ("execute shop.ship", "CONSUMER", "ERROR")
    assert failed.attributes["error.type"] == "OSError"
    assert len(queue_spans.wait(task="shop.*", count=4)) == 4


def test_celery_submits(queue_spans):
    from celery import Celery

    Celery("shop", broker="memory://localhost").send_task("shop.pack")
    assert queue_spans.tree() == "submit shop.pack"


def test_dramatiq(queue_spans):
    import dramatiq
    from dramatiq.brokers.stub import StubBroker

    broker = StubBroker()
    broker.emit_after("process_boot")
    pack = dramatiq.actor(lambda: None, broker=broker, actor_name="pack")
    worker = dramatiq.Worker(broker, worker_threads=2)
    worker.start()
    with queue_spans.span("checkout"):
        for _ in range(3):
            pack.send()
    assert len(queue_spans.wait(task="pack", status="success", count=3)) == 3
    worker.stop()
    queue_spans.assert_traced(parent="checkout", task="pack")


def pack():
    pass


def test_rq(queue_spans):
    import redis
    import rq

    with redis.Redis.from_url(os.environ["REDIS_URL"]) as connection, queue_spans.span("checkout"):
        rq.Queue(connection=connection, is_async=False).enqueue(pack)
        assert len(queue_spans.wait(task="*.pack")) == 1
        queue = rq.Queue("forked", connection=connection)
        queue.enqueue(len, [])
        rq.Worker([queue], connection=connection).work(burst=True)
    queue_spans.assert_traced(parent="checkout", task="*.pack")
    queue_spans.assert_traced(parent="checkout", task="builtins.len")


def test_huey(queue_spans):
    from huey import MemoryHuey

    huey = MemoryHuey(immediate=True)
    with queue_spans.span("checkout"):
        huey.task()(pack)()
    queue_spans.assert_traced(parent="checkout", task="*.pack")


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Django 6 needs Python 3.12")
def test_django(queue_spans):
    from django.conf import settings

    backend = "django.tasks.backends.immediate.ImmediateBackend"
    settings.configure(TASKS={"default": {"BACKEND": backend}})
    from django.tasks import task

    with queue_spans.span("checkout"):
        task(pack).enqueue()
    queue_spans.assert_traced(parent="checkout", task="*.pack")


def eager(name):
    from celery import Celery

    app = Celery("shop")
    app.conf.task_always_eager = True
    return app.task(name=name)(pack)


def test_fails_for_its_own_reasons(queue_spans):
    eager("shop.fails").delay()
    raise OSError


def test_waits_in_vain(queue_spans):
    eager("shop.waits").delay()
    queue_spans.wait(task="shop.waits", count=2, timeout=0.01)


def test_no_such_status(queue_spans):
    queue_spans.wait(status="failed")


def test_no_parent(queue_spans):
    eager("shop.orphan").delay()
    queue_spans.assert_traced(parent="checkout", task="shop.orphan", timeout=0.01)


def test_no_task(queue_spans):
    queue_spans.assert_traced(parent="checkout", task="shop.nothing", timeout=0.01)


def test_another_parent(queue_spans):
    with queue_spans.span("checkout"):
        pass
    eager("shop.other").delay()
    queue_spans.assert_traced(parent="checkout", task="shop.other", timeout=0.01)
'''


def test_tasks_in_the_process_of_the_test(run, redis_url, monkeypatch):
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    result = run("-n2", test_shop=IN_PROCESS)
    outcomes = result.parseoutcomes()
    assert outcomes.get("passed", 0) + outcomes.get("skipped", 0) == 6, output(result)
    assert outcomes["failed"] == 6
    for lines in (
        ["* queue_spans -*", "submit shop.fails", "└─ execute shop.fails"],
        [
            "E *TimeoutError: 1 of 2 runs of task 'shop.waits' ended within 0.01 s",
            "E       submit shop.waits",
            "E       └─ execute shop.waits",
        ],
        ["E *ValueError: status is 'failed': allowed are success, failure, retry, *"],
        ["E *AssertionError: no span 'checkout' ended within 0.01 s"],
        ["E *AssertionError: no run of task 'shop.nothing' ended within 0.01 s", "E *no spans"],
        ["E *: no run of task 'shop.other' belongs to the span 'checkout' within 0.01 s"],
    ):
        result.stdout.fnmatch_lines(lines)
    assert "testing/spans.py" not in output(result)  # a traceback ends in the user's test


OWN_SETUP = '''
import logging

from celery import Celery
from celery.app.task import Task
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otel_queue_bridge
from otel_queue_bridge.instrumentor import instrumented

app = Celery("shop")
app.conf.task_always_eager = True
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
original = Task.apply


@app.task(name="shop.pack")
def pack():
    pass


def checkout():
    with trace.get_tracer("shop").start_as_current_span("POST /orders"):
        pack.delay()


def processors():
    return len(provider._active_span_processor._span_processors)


def test_on_its_own(queue_spans):
    assert Task.apply is not original
    assert len(instrumented()) > 1
    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    pack.delay()
    queue_spans.wait(task="shop.pack", timeout=0)


def test_undone():
    assert Task.apply is original
    assert not instrumented()


def test_the_app_is_set_up_in_the_test(queue_spans):
    trace.set_tracer_provider(provider)
    checkout()
    queue_spans.assert_traced(parent="POST /orders", task="shop.pack", timeout=0)
    assert [span.name for span in exporter.get_finished_spans()] == ["POST /orders"]


def test_the_app_instruments():
    assert processors() == 1
    otel_queue_bridge.instrument("celery", naming="system", relation="link")
    global before
    before = instrumented()
    assert list(before) == ["celery"]


def test_taken_over(queue_spans, monkeypatch):
    monkeypatch.setenv("OTEL_PYTHON_QUEUE_BRIDGE_DISPATCH_SPANS", "false")
    exporter.clear()
    assert list(instrumented()) == ["celery"]
    checkout()
    assert [span.name for span in exporter.get_finished_spans()] == ["POST /orders"]
    queue_spans.assert_traced(parent="POST /orders", task="shop.pack", timeout=0)
    assert queue_spans.tree() == """\\
POST /orders
└─ celery.client.submit
celery.task.execute (link to celery.client.submit)"""
    queue_spans.wait(task="shop.pack", status="success", timeout=0)


def test_given_back():
    assert processors() == 1
    assert instrumented() == before
    exporter.clear()
    checkout()
    names = {span.name for span in exporter.get_finished_spans()}
    assert names == {"POST /orders", "celery.client.submit", "celery.task.execute"}
'''


def test_an_app_that_has_set_up_telemetry_itself(run):
    result = run(test_app=OWN_SETUP)
    assert result.parseoutcomes() == {"passed": 6}, output(result)


SHOP = """
import os
import time
from huey import SqliteHuey

huey = SqliteHuey("shop", filename=os.environ["BROKER"])


@huey.task()
def ship():
    pass


@huey.task()
def pack(folder):
    while not os.path.exists(folder):
        time.sleep(0.01)
    ship()
"""

WORKER = """
import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ["BROKER"] = str(Path(__file__).with_name("broker"))
BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def worker(queue_collector_env):
    process = subprocess.Popen(
        [BIN / "opentelemetry-instrument", BIN / "huey_consumer", "shop.huey"],
        env={**os.environ, **queue_collector_env},
    )
    yield
    process.kill()
    process.wait()
"""

COLLECTED = '''
import os

from shop import pack, ship


def test_nobody_has_exported(queue_collector, monkeypatch):
    monkeypatch.setattr("opentelemetry.sdk.trace.time_ns", lambda: 1)  # a test may set the clock
    ship()
    queue_collector.wait(task="shop.ship", timeout=0.01)


def test_left_behind(worker, queue_collector, queue_collector_env, tmp_path_factory):
    assert queue_collector.env == queue_collector_env
    with queue_collector.span("earlier"):
        pack(str(tmp_path_factory.getbasetemp() / "go"))


def test_worker(worker, queue_collector, tmp_path_factory):
    (tmp_path_factory.getbasetemp() / "go").mkdir()
    with queue_collector.span("checkout"):
        pack(str(tmp_path_factory.getbasetemp() / "go"))
    [run] = queue_collector.wait(task="shop.ship")
    assert run.kind == "CONSUMER"
    queue_collector.assert_traced(parent="checkout", task="shop.ship")
    assert queue_collector.tree() == """\\
checkout
└─ submit shop.pack
   └─ dispatch shop.pack
      └─ execute shop.pack
         └─ submit shop.ship
            └─ dispatch shop.ship
               └─ execute shop.ship"""


def test_fails(worker, queue_collector):
    ship()
    queue_collector.wait(task="shop.ship")
    raise OSError
'''


def test_tasks_in_a_worker(run, monkeypatch):
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:1/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "grpc")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    result = run("-n1", shop=SHOP, conftest=WORKER, test_shop=COLLECTED)
    assert result.parseoutcomes() == {"passed": 2, "failed": 2}, output(result)
    result.stdout.fnmatch_lines(
        [
            "E *TimeoutError: 0 of 1 runs of task 'shop.ship' ended within 0.01 s; no other *",
            "* queue_collector -*",
            "submit shop.ship",
            "* queue_collector -*",
            "submit shop.ship",
            "└─ dispatch shop.ship",
            "   └─ execute shop.ship",
        ]
    )
    assert "- queue_spans -" not in output(result)


def test_a_worker_gets_no_key_of_another_endpoint(monkeypatch):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s3cr3t")
    with Receiver() as receiver:
        given = environment(receiver)
    assert given["OTEL_EXPORTER_OTLP_HEADERS"] == ""
    assert given["no_proxy"] == "127.0.0.1"


def test_without_the_extra(run):
    result = run(
        conftest='import sys\nsys.modules["opentelemetry.sdk"] = None',
        test_shop="""
            def test_other():
                pass

            def test_spans(queue_spans):
                pass

            def test_collector(queue_collector):
                pass
        """,
    )
    assert result.parseoutcomes() == {"passed": 1, "errors": 2}, output(result)
    lines = [line for line in result.outlines if " needs " in line and "ERROR" not in line]
    assert [re.sub("needs .*:", "needs:", line) for line in lines] == [
        f"{name} needs: pip install 'otel-queue-bridge[testing]'"
        for name in ("queue_spans", "queue_collector")
    ]
    assert "Traceback" not in output(result)


def test_it_can_be_left_out(run):
    result = run("-p", "no:otel_queue_bridge", test_shop="def test(queue_spans): pass")
    result.stdout.fnmatch_lines(["E *fixture 'queue_spans' not found"])


def test_pytest_has_nothing_to_warn_of_when_we_are_imported_first(pytester):
    pytester.makeconftest(
        "import pytest\npytest.register_assert_rewrite('otel_queue_bridge.testing')"
    )
    pytester.makepyfile("""
        def test_the_contract_is_rewritten():
            import otel_queue_bridge.testing.contract as contract

            assert "AssertionRewritingHook" in type(contract.__loader__).__name__
    """)
    code = "import otel_queue_bridge.testing, pytest, sys; sys.exit(pytest.main(sys.argv[1:]))"
    result = pytester.run(sys.executable, "-c", code, *ARGUMENTS, timeout=4 * LIMIT)
    assert result.parseoutcomes() == {"passed": 1}, output(result)


def test_loading_it_imports_only_pytest_and_the_standard_library():
    code = """
import sys
import pytest
before = set(sys.modules)
import otel_queue_bridge.testing.plugin
tops = {name.partition(".")[0] for name in sys.modules.keys() - before}
print(*tops - sys.stdlib_module_names)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LIMIT
    )
    assert found.stdout.split() == ["otel_queue_bridge"]
