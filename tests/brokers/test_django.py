"""Django Tasks: every backend in this process, and the database worker in real ones."""

import asyncio
import json
import os
import signal
import sys
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import format_span_id

from otel_queue_bridge import instrument, uninstrument
from otel_queue_bridge.adapters.django.queues import Queues
from otel_queue_bridge.otlp import Receiver
from tests.brokers.shop import ROOT, paths
from tests.collected import Recorded
from tests.servers import CLOCK, LIMIT, Processes, Valkey, otel_env, wait_until

pytest.importorskip("django.tasks")

SETTINGS = "tests.brokers.django_settings"
WORKER = ("-m", "django", "db_worker", "--no-startup-delay", "--interval", "0.05")
APP = "tests.brokers.django_app"


class Project:
    """A Django project: this process calls its tasks, others are its workers."""

    def __init__(self, folder: Path, valkey: Valkey, receiver: Receiver, processes: Processes):
        self.folder = folder
        self.receiver = receiver
        self._processes = processes
        self.env = {
            "APP_DATABASE": str(folder / "db.sqlite3"),
            "APP_FOLDER": str(folder),
            "APP_REDIS": valkey.url,
            "DJANGO_SETTINGS_MODULE": SETTINGS,
        }

    def worker(self, *arguments, service="worker", ready=None, bare=False, **env):
        command = [sys.executable, *WORKER, *arguments]
        others = {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,redis,logging"}
        return self._processes.start(
            service,
            command if bare else ["opentelemetry-instrument", *command],
            env=otel_env(self.receiver, service)
            | self.env
            | {"PYTHONPATH": str(ROOT)}
            | others
            | env,
            ready=ready,
            cwd=ROOT,
        )

    def batch(self, *arguments, **options):
        """Run what is ready, all of it, and return what of that has been exported."""
        worker = self.worker("--batch", *arguments, **options)
        assert worker.wait() == 0, worker.log()
        return self.exported(options.get("service", "worker"))

    def exported(self, service):
        return [span for span in self.receiver.spans() if span.service == service]

    def points(self, metric, service):
        found = self.receiver.latest()
        return [one for one in found if one.metric == metric and one.service == service]


@pytest.fixture(scope="module")
def project(tmp_path_factory, valkey):
    import django
    from django.core.management import call_command
    from django.db import connections

    folder = tmp_path_factory.mktemp("django")
    with Receiver() as receiver, Processes(folder) as processes:
        project = Project(folder, valkey, receiver, processes)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in project.env.items():
                patch.setenv(name, value)
            django.setup()
            call_command("migrate", run_syncdb=True, verbosity=0)
            yield project
            connections.close_all()


@pytest.fixture(scope="module")
def app(project):
    from tests.brokers import django_app

    return django_app


class Caller(Recorded):
    """The process of the tests, instrumented."""

    def __init__(self):
        super().__init__()
        instrument("django", "rq", "huey", **self.options)

    def spans(self):
        """Return the spans in order of their end."""
        return self.exporter.get_finished_spans()

    def names(self):
        return [span.name.replace(f"{APP}.", "") for span in self.spans()]

    def counts(self):
        names = ("submitted", "dispatched", "completed")
        return {n: sum(self.totals(f"task.{n}").values()) for n in names}


@pytest.fixture
def caller(project):
    caller = Caller()
    yield caller
    uninstrument()


class NoRecorder:
    """As far as a reading needs one."""

    def polling(self):
        return nullcontext()


def row(result):
    from django_tasks_db.models import DBTaskResult

    return DBTaskResult.objects.get(id=result.id)


def carrier(result):
    return row(result).args_kwargs.get("otel")


@pytest.fixture(autouse=True)
def no_tasks(project):
    """Leave no task to the next test."""
    from django_tasks_db.models import DBTaskResult

    yield
    DBTaskResult.objects.all().delete()


# Callers


def test_what_runs_at_once_has_a_submit_and_an_execute(caller, app) -> None:
    result = app.fine.using(backend="now").enqueue("word")
    assert result.return_value == "word"
    execute, submit = caller.spans()
    assert caller.names() == ["execute fine", "submit fine"]
    assert execute.parent.span_id == submit.context.span_id
    assert execute.attributes["messaging.message.id"] == result.id
    assert submit.attributes["messaging.message.id"] == result.id
    assert submit.attributes["django.backend"] == "now"
    assert caller.counts() == {"submitted": 1, "dispatched": 0, "completed": 1}


@pytest.mark.parametrize(
    ("name", "error"),
    [("boom", f"{APP}.BoomError"), ("leaves", "SystemExit"), ("unwritable", "TypeError")],
)
def test_what_fails_at_once_is_a_failed_execute(caller, app, name, error) -> None:
    result = getattr(app, name).using(backend="now").enqueue()
    assert result.status == "FAILED"
    execute, submit = caller.spans()
    assert (execute.attributes["task.status"], execute.attributes["error.type"]) == (
        "failure",
        error,
    )
    assert (execute.status.status_code.name, submit.status.status_code.name) == ("ERROR", "UNSET")


def test_an_interrupt_of_what_runs_at_once_passes(caller, app) -> None:
    with pytest.raises(KeyboardInterrupt):
        app.interrupted.using(backend="now").enqueue()
    assert caller.spans()[0].attributes["error.type"] == "KeyboardInterrupt"


def test_a_task_that_runs_at_once_may_submit_itself(caller, app) -> None:
    app.nested.using(backend="now").enqueue()
    (nested,) = (span for span in caller.spans() if span.name == f"execute {APP}.nested")
    (submit,) = (span for span in caller.spans() if span.name == f"submit {APP}.fine")
    assert submit.parent.span_id == nested.context.span_id
    assert caller.counts() == {"submitted": 2, "dispatched": 0, "completed": 1}


def test_what_never_runs_has_a_submit(caller, app) -> None:
    result = app.fine.using(backend="dummy").enqueue("word")
    assert caller.names() == ["submit fine"]
    assert caller.spans()[0].attributes["messaging.message.id"] == result.id


@pytest.mark.parametrize("backend", ["default", "now", "dummy", "audited", "routed"])
def test_submitted_without_waiting_it_is_submitted_once(caller, app, backend) -> None:
    result = asyncio.run(app.soon.using(backend=backend).aenqueue())
    (submit,) = (span for span in caller.spans() if span.name.startswith("submit"))
    assert submit.attributes["messaging.message.id"] == result.id
    assert caller.counts()["submitted"] == 1
    if backend not in ("now", "dummy"):
        assert format_span_id(submit.context.span_id) in carrier(result)["traceparent"]


@pytest.mark.parametrize("backend", ["default", "audited", "routed"])
def test_a_backend_that_calls_another_submits_once(caller, app, backend) -> None:
    results = [app.fine.using(backend=backend).enqueue("word") for _ in range(2)]
    assert caller.names() == ["submit fine"] * 2
    first, second = map(carrier, results)
    assert first["traceparent"] != second["traceparent"]
    assert row(results[0]).args_kwargs.keys() == {"args", "kwargs", "otel"}
    assert caller.spans()[0].attributes["django.backend"] == backend


def test_what_a_signal_submits_is_another_task(caller, app) -> None:
    app.fine.enqueue("enqueue me twice")
    assert caller.names() == ["submit fine"] * 2
    assert caller.counts()["submitted"] == 2


def test_a_rollback_takes_the_task_back_and_not_the_submit(caller, app) -> None:
    from django.db import transaction
    from django_tasks_db.models import DBTaskResult

    with transaction.atomic():
        app.fine.enqueue()
    with transaction.atomic():
        app.fine.enqueue()
        transaction.set_rollback(True)
    assert DBTaskResult.objects.count() == 1
    assert caller.counts()["submitted"] == 2


def test_arguments_that_are_no_json_are_a_failed_submit(caller, app) -> None:
    with pytest.raises(TypeError):
        app.fine.enqueue(object())
    (submit,) = caller.spans()
    assert submit.attributes["error.type"] == "TypeError"
    assert caller.counts()["submitted"] == 0


@pytest.mark.parametrize("waits", [True, False])
def test_another_worker_than_djangos_has_executes(caller, app, waits) -> None:
    from django.tasks import task_backends

    for task in (app.fine, app.calls):
        task.using(backend="own").enqueue()
    if waits:
        task_backends["own"].work()
    else:
        asyncio.run(task_backends["own"].work_soon())
    executes = [name for name in caller.names() if name.startswith("execute")]
    assert executes == ["execute fine", "execute calls"]
    assert caller.counts() == {"submitted": 2, "dispatched": 0, "completed": 2}


def test_to_call_a_task_is_no_execute(caller, app) -> None:
    assert app.fine.call("word") == "word"
    assert caller.spans() == ()


def test_a_task_that_has_moved_is_executed(caller, app, monkeypatch) -> None:
    from django_tasks_db.models import DBTaskResult

    result = app.fine.enqueue("word")
    monkeypatch.setattr(app, "old_name", app.fine, raising=False)
    DBTaskResult.objects.filter(id=result.id).update(task_path=f"{APP}.old_name")
    worker_here().run()
    assert caller.names()[-1] == "execute old_name"
    assert caller.counts()["completed"] == 1


@pytest.mark.parametrize("backend", ["default", "now", "own"])
def test_a_context_is_no_argument(caller, app, backend) -> None:
    from django.tasks import task_backends

    uninstrument()
    listed = {"capture_arguments": f"{APP}.greeted:word"}
    instrument("django", **listed, **caller.options)
    app.greeted.using(backend=backend).enqueue("secret", "hello")
    if backend == "default":
        worker_here().run()
    if backend == "own":
        task_backends["own"].work()
    (execute,) = (span for span in caller.spans() if span.name.startswith("execute"))
    assert execute.attributes["task.argument.word"] == "hello"
    assert "secret" not in str(caller.spans())


def test_what_goes_to_rq_is_recorded_by_rq_alone(caller, redis_url) -> None:
    import django_rq
    from django_tasks_rq import Job
    from rq import SimpleWorker

    from tests.brokers.django_rq_app import in_rq

    result = in_rq.enqueue()
    queue = django_rq.get_queue("default", job_class=Job)
    SimpleWorker([queue], connection=queue.connection, job_class=Job).work(burst=True)
    in_rq.get_result(result.id)
    systems = {span.attributes["messaging.system"] for span in caller.spans()}
    assert [span.name.split()[0] for span in caller.spans()] == ["submit", "dispatch", "execute"]
    assert systems == {"rq"}
    assert caller.counts() == {"submitted": 1, "dispatched": 1, "completed": 1}


def test_what_goes_to_huey_is_recorded_by_huey_alone(caller, app) -> None:
    from django.conf import settings

    app.fine.using(backend="huey").enqueue("word")
    settings.HUEY.execute(settings.HUEY.dequeue())
    assert [span.name.split()[0] for span in caller.spans()] == ["submit", "dispatch", "execute"]
    assert {span.attributes["messaging.system"] for span in caller.spans()} == {"huey"}
    assert caller.counts() == {"submitted": 1, "dispatched": 1, "completed": 1}


def test_admin_and_dumps_show_the_carrier_and_keep_it(caller, app, tmp_path) -> None:
    from django.contrib.auth.models import User
    from django.core.management import call_command
    from django.test import Client
    from django_tasks_db.models import DBTaskResult

    result = app.fine.enqueue("word")
    held = carrier(result)
    dump = tmp_path / "dump.json"
    call_command("dumpdata", "django_tasks_database", output=str(dump))
    DBTaskResult.objects.all().delete()
    call_command("loaddata", str(dump), verbosity=0)
    assert carrier(result) == held
    client = Client()
    client.force_login(User.objects.create_superuser("admin"))
    page = client.get(f"/admin/django_tasks_database/dbtaskresult/{result.id}/change/")
    assert held["traceparent"] in page.content.decode()


# Workers

OUTCOMES = {
    "fine": ("SUCCESSFUL", "success", None),
    "boom": ("FAILED", "failure", f"{APP}.BoomError"),
    "leaves": ("FAILED", "failure", "SystemExit"),
    "interrupted": ("FAILED", "failure", "KeyboardInterrupt"),
    "unwritable": ("FAILED", "failure", "TypeError"),
    "with_context": ("SUCCESSFUL", "success", None),
    "soon": ("SUCCESSFUL", "success", None),
    "nested": ("SUCCESSFUL", "success", None),
    "calls": ("SUCCESSFUL", "success", None),
    "followed": ("SUCCESSFUL", "success", None),
}


class Batch:
    """What one worker has made of a task of each kind."""

    def __init__(self, project: Project, app) -> None:
        from django.utils import timezone
        from django_tasks_db.models import DBTaskResult

        caller = Caller()
        self.results = {
            name: getattr(app, name).enqueue(*(["word"] if name == "with_context" else []))
            for name in OUTCOMES
        }
        self.results["other"] = app.fine.using(backend="other").enqueue()
        self.results["first"] = app.fine.using(priority=9, queue_name="letters").enqueue()
        for name in ("gone", "junk", "numbers", "late"):
            self.results[name] = app.plain.enqueue()
        with suppress_instrumentation():
            self.results["bare"] = app.plain.enqueue()
        self.submits = {
            span.attributes["messaging.message.id"]: format_span_id(span.context.span_id)
            for span in caller.spans()
        }
        self.submitted = caller.counts()["submitted"]
        uninstrument()
        rows = DBTaskResult.objects
        rows.filter(id=self.results["gone"].id).update(task_path=f"{APP}.nobody_knows")
        empty = {"args": [], "kwargs": {}}
        junk = {"junk": "junk", "numbers": {"traceparent": 5, "otel-submitted": [], "baggage": {}}}
        for name, found in junk.items():
            rows.filter(id=self.results[name].id).update(args_kwargs={**empty, "otel": found})
        now = timezone.now()
        self.planned = now - timedelta(seconds=10)
        rows.filter(id=self.results["late"].id).update(
            enqueued_at=now - timedelta(seconds=100), run_after=self.planned
        )
        self.spans = project.batch("--queue-name=*", service="batch")
        self.points = project.receiver.latest()
        self.rows = {name: row(result) for name, result in self.results.items()}
        project.batch("--queue-name=*", "--backend=other", service="other")
        self.others = project.exported("other")

    def of(self, name, operation):
        task_id = self.results[name].id
        return [
            span
            for span in self.spans
            if span.attributes.get("messaging.message.id") == task_id
            and span.attributes["messaging.operation.name"] == operation
        ]

    def count(self, metric):
        points = [one for one in self.points if one.metric == f"task.{metric}"]
        return sum(one.value for one in points if one.service == "batch")


@pytest.fixture(scope="module")
def batch(project, app):
    return Batch(project, app)


@pytest.mark.parametrize("name", OUTCOMES)
def test_an_execute_ends_as_its_row_says(batch, name) -> None:
    stored, status, error = OUTCOMES[name]
    (dispatch,), (execute,) = batch.of(name, "dispatch"), batch.of(name, "execute")
    assert batch.rows[name].status == stored
    assert execute.attributes["task.status"] == status
    assert execute.attributes.get("error.type") == error
    assert execute.status == ("ERROR" if error else "UNSET")
    assert dispatch.parent_id == batch.submits[batch.results[name].id]
    assert (execute.parent_id, dispatch.status) == (dispatch.span_id, "UNSET")
    assert dispatch.end <= execute.start + 1e9 * CLOCK
    assert dispatch.attributes["task.worker"] == batch.rows[name].worker_ids[0]


def test_a_task_that_nobody_knows_is_rejected_by_its_dispatch(batch) -> None:
    (dispatch,) = batch.of("gone", "dispatch")
    assert (batch.rows["gone"].status, dispatch.attributes["task.status"]) == ("FAILED", "rejected")
    assert batch.of("gone", "execute") == []


@pytest.mark.parametrize("name", ["bare", "junk", "numbers"])
def test_without_a_carrier_there_is_a_trace_and_a_wait(batch, name) -> None:
    (dispatch,), (execute,) = batch.of(name, "dispatch"), batch.of(name, "execute")
    assert (dispatch.parent_id, execute.parent_id) == ("", dispatch.span_id)
    assert 0 <= execute.attributes["task.wait"] < LIMIT
    assert batch.rows[name].status == "SUCCESSFUL"


def test_the_wait_is_exact(batch) -> None:
    (execute,) = batch.of("late", "execute")
    waited = execute.start / 1e9 - batch.planned.timestamp()
    assert abs(execute.attributes["task.wait"] - waited) < CLOCK


def test_what_a_task_and_what_its_signals_submit_is_its_child(batch) -> None:
    lines = paths(batch.spans, lambda span: span.name.replace(f"{APP}.", ""))
    below = {line.rpartition("execute ")[0] + "..." for line in lines.values()}
    assert any("execute nested > submit fine > dispatch fine" in line for line in lines.values())
    assert any("execute followed > submit plain" in line for line in lines.values()), below


def test_what_a_body_does_is_below_its_execute(batch) -> None:
    for name in ("fine", "soon", "calls"):
        (execute,) = batch.of(name, "execute")
        (inner,) = (span for span in batch.spans if span.parent_id == execute.span_id)
        assert inner.name == "inner"


def test_queue_priority_and_backend_are_told(batch) -> None:
    (execute,) = batch.of("first", "execute")
    assert execute.attributes["messaging.destination.name"] == "letters"
    assert execute.attributes["task.priority"] == 9
    assert execute.attributes["django.backend"] == "default"
    assert execute.start == min(s.start for s in batch.spans if s.name.startswith("execute"))
    assert batch.of("other", "dispatch") == []
    assert {span.attributes.get("django.backend") for span in batch.others} == {"other", None}


def test_a_finished_batch_adds_up(batch) -> None:
    inside = batch.count("submitted")  # by `nested` and `followed`
    assert inside == 2
    assert batch.count("dispatched") == batch.submitted + inside + 1 - 1  # the bare, not the other
    assert batch.count("completed") == batch.count("dispatched")
    assert batch.count("workers.active") == batch.count("workers.busy") == 0
    assert not [one for one in batch.points if one.metric == "task.queue.depth"]


def test_a_worker_without_us_runs_what_carries_a_trace(project, app, caller) -> None:
    results = [app.fine.enqueue("word"), app.boom.enqueue(), app.with_context.enqueue("word")]
    assert all(map(carrier, results))
    project.batch(bare=True, service="without us")
    assert [row(result).status for result in results] == ["SUCCESSFUL", "FAILED", "SUCCESSFUL"]
    assert row(results[2]).return_value == "1 word"
    assert project.exported("without us") == []


def worker_here():
    from django_tasks_db.management.commands.db_worker import Worker

    return Worker(
        queue_names=["default"],
        interval=0,
        batch=True,
        backend_name="default",
        startup_delay=False,
        max_tasks=None,
        worker_id="here",
        excluded_queue_names=[],
    )


def test_no_signal_ends_a_worker_while_we_write(caller, app) -> None:
    """It would, by an exit, unless `running_task` is set: and the task is claimed already."""
    worker, seen = worker_here(), []

    class Watch(SpanProcessor):
        def on_start(self, span, parent_context=None):
            seen.append(worker.running_task)

        def on_end(self, span):
            seen.append(worker.running_task)

    app.plain.enqueue()
    caller.tracers.add_span_processor(Watch())
    worker.run()
    assert seen == [True] * 4
    assert not worker.running_task
    assert caller.counts() == {"submitted": 1, "dispatched": 1, "completed": 1}


def test_depth_is_not_asked_too_often_and_over_another_connection(caller, app) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from django.db import connection, connections
    from django.test.utils import CaptureQueriesContext

    app.plain.enqueue()
    worker, here = worker_here(), connection.connection
    asked = Queues(NoRecorder())

    def read():
        with CaptureQueriesContext(connections["default"]) as queries:
            found = asked.readings(worker)
        return found, len(queries), connections["default"].connection

    with ThreadPoolExecutor(1) as thread:
        first, again = (thread.submit(read).result() for _ in range(2))
    assert [(one.value, one.delayed, one.dead) for one in first[0]] == [(1, 0, 0)]
    assert (first[1] > 1, again[1]) == (True, 0)
    assert again[0] == first[0]
    assert (first[2], connection.connection) == (None, here)


def test_told_to_stop_a_worker_ends_its_task_and_exports_it(project, app) -> None:
    app.held.enqueue("gently")
    worker = project.worker(service="stopped")
    wait_until((project.folder / "gently began").exists)
    wait_until(lambda: [p.value for p in project.points("task.workers.busy", "stopped")] == [1])
    os.kill(worker.pid, signal.SIGTERM)
    worker.wait_for("shutting down gracefully")
    (project.folder / "gently may end").touch()
    assert worker.wait() == 0, worker.log()
    _, execute = project.exported("stopped")
    assert execute.attributes["task.status"] == "success"
    assert [p.value for p in project.points("task.workers.active", "stopped")] == [0]


def test_told_twice_a_worker_fails_its_task(project, app) -> None:
    result = app.held.enqueue("harshly")
    worker = project.worker(service="ended")
    wait_until((project.folder / "harshly began").exists)
    os.kill(worker.pid, signal.SIGTERM)
    worker.wait_for("shutting down gracefully")
    os.kill(worker.pid, signal.SIGTERM)
    worker.wait()
    assert row(result).status == "FAILED"
    _, execute = project.exported("ended")
    assert execute.attributes["error.type"] == "SystemExit"
    assert sum(p.value for p in project.points("task.completed", "ended")) == 1


def test_told_to_stop_while_idle_a_worker_has_exported_all(project, app) -> None:
    slow = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
    result = app.plain.enqueue()
    worker = project.worker(service="idle", **slow)
    wait_until(lambda: row(result).status == "SUCCESSFUL")
    assert worker.stop() == 0, worker.log()
    assert [span.name.split()[0] for span in project.exported("idle")] == ["dispatch", "execute"]
    assert sum(p.value for p in project.points("task.completed", "idle")) == 1


def test_a_worker_that_reloads_is_instrumented_in_code(project, app) -> None:
    result = app.fine.enqueue()
    worker = project.worker("--reload", service="reloads", bare=True, APP_IN_CODE="1")
    wait_until(lambda: row(result).status == "SUCCESSFUL")
    wait_until(lambda: project.points("task.completed", "reloads"), LIMIT, worker.log)
    worker.signal_all(signal.SIGTERM)
    worker.wait()
    names = [span.name.split()[0] for span in project.exported("reloads")]
    assert sorted(names) == ["dispatch", "execute", "inner"]


SQL = {"BEGIN", "SELECT", "UPDATE", "COMMIT", "PRAGMA"}
"""Paths of spans that have no parent."""


@pytest.mark.parametrize("suppressed", ["true", "false"])
def test_of_a_worker_only_its_tasks_ask_the_database(project, app, suppressed) -> None:
    service = f"suppressed {suppressed}"
    app.counts_rows.enqueue()
    option = {"OTEL_PYTHON_QUEUE_BRIDGE_SUPPRESS_POLLING": suppressed, "APP_TRACES_SQL": "1"}
    spans = project.batch(service=service, OTEL_PYTHON_QUEUE_BRIDGE_QUEUE_DEPTH="true", **option)
    lines = paths(spans, lambda span: span.name.split()[0])
    assert "? > dispatch > execute > SELECT" in lines.values() or (
        "dispatch > execute > SELECT" in lines.values()
    )
    asked = [span.attributes["db.statement"] for span in spans if lines[span.span_id] in SQL]
    assert asked[:2] == ["BEGIN", 'SELECT JSON(\'{"a": "b"}\')'], "checks before there is a worker"
    assert bool(asked[2:]) == (suppressed == "false"), asked


def test_depth_is_read_where_it_is_asked_for(project, app) -> None:
    from django.utils import timezone

    later = timezone.now() + timedelta(hours=1)
    for _ in range(2):
        app.plain.using(run_after=later, queue_name="waits").enqueue()
    app.held.enqueue("depth")
    worker = project.worker(
        "--queue-name=*", service="deep", OTEL_PYTHON_QUEUE_BRIDGE_QUEUE_DEPTH="true"
    )
    wait_until((project.folder / "depth began").exists)
    found = wait_until(lambda: project.points("task.queue.delayed", "deep"))
    waits = {p.attributes["messaging.destination.name"]: p.value for p in found}
    assert waits["waits"] == 2
    (project.folder / "depth may end").touch()
    worker.stop()


def test_afterwards_all_is_as_before(project, app) -> None:
    from django.tasks.backends.base import BaseTaskBackend
    from django.tasks.base import Task
    from django_tasks_db import DatabaseBackend, backend

    places = [
        *((BaseTaskBackend, name) for name in ("enqueue", "aenqueue", "__init_subclass__")),
        *((DatabaseBackend, name) for name in ("enqueue", "aenqueue")),
        *((Task, name) for name in ("call", "acall")),
        (backend, "normalize_json"),
    ]
    before = [vars(owner).get(name) for owner, name in places]
    Caller()
    assert vars(DatabaseBackend)["enqueue"] is not before[3]
    uninstrument()
    assert [vars(owner).get(name) for owner, name in places] == before
    assert json.dumps(row(app.fine.enqueue("word")).args_kwargs) == (
        '{"args": ["word"], "kwargs": {}}'
    )
