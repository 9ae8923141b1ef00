"""Wherever users set up the SDK and switch us on: the spans and the counts are right."""

import json
import re
import signal
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import pytest
from celery import Celery

from otel_queue_bridge.otlp import Receiver
from tests.brokers.shop import ROOT, paths
from tests.servers import LIMIT, Processes, otel_env

APP = "tests.brokers.celery_setups_app"
TASKS = 5
CHILDREN = "worker_process_init"
MOMENTS = ("import", "worker_init", CHILDREN)
SETUPS = [(sdk, ours) for sdk in MOMENTS for ours in MOMENTS]
HERE = {
    "PYTHONPATH": str(ROOT),
    "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "celery,fastapi,logging,redis",
}
RARELY = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
"""What is exported is exported at the end."""


def run(
    redis_url: str, receiver: Receiver, processes: Processes, *arguments: str, **env: str
) -> None:
    """Have a worker run some tasks, each of which submits another one, and end."""
    variables = {"APP_BROKER": redis_url, **HERE}
    worker = processes.start(
        "worker",
        ["celery", "-A", APP, "worker", "-c", "2", "-l", "INFO", *arguments],
        env=otel_env(receiver, "worker") | variables | RARELY | env,
        ready=" ready.",
        cwd=ROOT,
    )
    with Celery(broker=redis_url) as app:
        for _ in range(TASKS):
            app.send_task("outer")
        worker.wait_for(lambda: worker.log().count("Task inner[") == 2 * TASKS)
        # The children write that log. If the worker stops before its main process has read their
        # results, Celery gives those tasks back as if nobody had begun them.
        worker.wait_for(lambda: is_idle(app))
    assert worker.stop(signal.SIGTERM) == 0


def is_idle(app: Celery) -> bool:
    inspect = app.control.inspect()
    replies = inspect.active(), inspect.reserved()
    return all(replies) and not any(tasks for found in replies for tasks in found.values())


def counts(receiver: Receiver) -> Counter[str]:
    """Add up over all processes what each has exported last."""
    found: Counter[str] = Counter()
    for point in receiver.latest():
        if "task.name" in point.attributes:
            name = f"{point.metric} {point.attributes['task.name']}"
            found[name] += point.count or int(point.value)
    return found


EXPECTED = Counter(
    {
        "task.submitted inner": TASKS,
        "task.wait inner": TASKS,
        **{
            f"task.{metric} {task}": TASKS
            for metric in ("dispatched", "completed", "duration")
            for task in ("inner", "outer")
        },
    }
)


@pytest.mark.parametrize("arguments", [(), ("--max-tasks-per-child", "1")], ids=["", "recycled"])
@pytest.mark.parametrize(("sdk", "ours"), SETUPS)
def test_each_combination_of_moments(
    redis_url: str, receiver: Receiver, processes: Processes, sdk: str, ours: str, arguments
) -> None:
    """Where the main process has no SDK, or is not instrumented, its children count."""
    run(redis_url, receiver, processes, *arguments, APP_SDK=sdk, APP_INSTRUMENT=ours)
    path = paths(receiver.spans(), lambda span: span.name)
    dispatch = "" if CHILDREN in (sdk, ours) else "dispatch {} > "
    outer = f"{dispatch.format('outer')}execute outer"
    submit = f"{outer} > user > submit inner"
    inner = f"{submit} > {dispatch.format('inner')}execute inner"
    expected = [outer, f"{outer} > user", submit, inner]
    if dispatch:
        expected += ["dispatch outer", f"{submit} > dispatch inner"]
    assert Counter(path.values()) == Counter(expected * TASKS)
    assert counts(receiver) == EXPECTED


def test_a_killed_child_whose_spans_are_relayed_loses_none_that_had_ended(
    redis_url: str, receiver: Receiver, processes: Processes
) -> None:
    """Without the relay they wait for the child's next export, here until its end."""
    env = {"OTEL_PYTHON_QUEUE_BRIDGE_CHILD_EXPORT": "relay", **RARELY}
    worker = processes.start(
        "worker",
        ["opentelemetry-instrument", "celery", "-A", APP, "worker", "-c", "1", "-l", "INFO"],
        env=otel_env(receiver, "worker") | {"APP_BROKER": redis_url, **HERE, **env},
        ready=" ready.",
        cwd=ROOT,
    )
    with Celery(broker=redis_url) as app:
        for _ in range(TASKS):
            app.send_task("many", args=(100,))
        app.send_task("die")
        app.send_task("inner")
    worker.wait_for(lambda: "Task inner[" in worker.log().partition("WorkerLostError")[2])
    assert worker.stop(signal.SIGTERM) == 0
    names = Counter(span.name for span in receiver.spans())
    assert (names["execute many"], names["user"]) == (TASKS, 100 * TASKS)
    assert (names["execute die"], names["execute inner"]) == (1, 1)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_an_embedded_beat_submits_is_exported(
    redis_url: str, receiver: Receiver, processes: Processes, tmp_path: Path, pool: str
) -> None:
    """Its process closes all files that it has inherited."""
    sent = run_beat(redis_url, processes, tmp_path, "-P", pool, **otel_env(receiver, "worker"))
    submits = {span.span_id for span in receiver.spans() if span.name == "submit inner"}
    dispatches = [span for span in receiver.spans() if span.name == "dispatch inner"]
    found = counts(receiver)
    assert len(submits) == found["task.submitted inner"]
    assert sent - 1 <= len(submits) <= sent  # it may be stopped between the two
    assert dispatches
    assert {span.parent_id for span in dispatches} <= submits


def test_what_an_embedded_beat_submits_is_exported_over_grpc(
    redis_url: str, processes: Processes, tmp_path: Path
) -> None:
    """Among the files that it closes are those by which gRPC waits."""
    from tests.otlp_grpc import GrpcReceiver

    with GrpcReceiver() as receiver:
        env = dict.fromkeys(("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER"), "otlp")
        env |= {"OTEL_LOGS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.endpoint
        sent = run_beat(redis_url, processes, tmp_path, **env)
        submits = [span for span in receiver.spans() if span.name == "submit inner"]
    assert sent - 1 <= len(submits) <= sent


def run_beat(
    redis_url: str, processes: Processes, folder: Path, *arguments: str, **env: str
) -> int:
    """Run a worker with its beat for some tasks; return how many beat has sent."""
    variables = {"APP_BROKER": redis_url, **HERE}
    variables |= {"APP_SCHEDULE": str(folder / "schedule"), **RARELY}
    command = ["opentelemetry-instrument", "celery", "-A", APP, "worker", "-B", "-l", "INFO"]
    worker = processes.start("worker", [*command, *arguments], env=env | variables, cwd=ROOT)
    worker.wait_for(lambda: worker.log().count("Task inner[") >= 2 * TASKS)
    assert worker.stop(signal.SIGTERM) == 0
    return worker.log().count("Scheduler: Sending due task")


PATCH = "OTEL_PYTHON_AUTO_INSTRUMENTATION_EXPERIMENTAL_GEVENT_PATCH"


@pytest.mark.parametrize(
    ("pool", "env", "warning"),
    [
        ("gevent", {}, f"before gevent patched this process: .* set {PATCH}=patch_all"),
        ("gevent", {PATCH: "patch_all"}, ""),
        ("eventlet", {}, "before eventlet patched this process"),
        ("threads", {}, ""),
    ],
)
def test_an_sdk_that_was_started_before_greenlets_is_one_warning(
    redis_url: str,
    receiver: Receiver,
    processes: Processes,
    pool: str,
    env: dict[str, str],
    warning: str,
) -> None:
    worker = processes.start(
        "worker",
        ["opentelemetry-instrument", "celery", "-A", APP, "worker", "-P", pool, "-l", "INFO"],
        env=otel_env(receiver, "worker") | {"APP_BROKER": redis_url, **HERE} | env,
        ready="the SDK was started" if warning else " ready.",  # it may hang from then on
        cwd=ROOT,
    )
    lines = [line for line in worker.log().splitlines() if "the SDK was started" in line]
    assert [bool(re.search(warning, line)) for line in lines] == ([True] if warning else [])


QUORUM = {
    "task_default_queue_type": "quorum",
    "task_default_exchange_type": "topic",
    "broker_transport_options": {"confirm_publish": True},
}
"""With these queues Celery 5.5 and later lets the broker delay a task."""


@pytest.mark.skipif(version("celery") < "5.5", reason="this Celery delays in the worker only")
def test_the_destination_of_what_the_broker_delays_is_its_queue(
    amqp_url: str, receiver: Receiver, processes: Processes
) -> None:
    """It is published with a routing key of 28 bits, one for each second of the delay."""
    variables = {
        "APP_BROKER": amqp_url,
        **HERE,
        "APP_CONF": json.dumps(QUORUM),
    }
    worker = processes.start(
        "worker",
        ["opentelemetry-instrument", "celery", "-A", APP, "worker", "-c", "1", "-l", "INFO"],
        env=otel_env(receiver, "worker") | variables,
        ready=" ready.",
        cwd=ROOT,
    )
    with Celery(broker=amqp_url) as app:
        app.conf.update(QUORUM)
        app.send_task("later")
    receiver.wait_for(lambda spans: any(span.name == "execute inner" for span in spans), LIMIT)
    assert worker.stop(signal.SIGTERM) == 0
    inner = [span for span in receiver.spans() if span.name.endswith(" inner")]
    assert [span.attributes["messaging.destination.name"] for span in inner] == ["celery"] * 3
    assert max(span.attributes.get("task.wait", 0) for span in inner) < 3


@pytest.mark.parametrize("way", ["link_error", "chord"])
def test_what_is_done_about_a_killed_child_is_below_its_execute(
    redis_url: str, receiver: Receiver, processes: Processes, way: str
) -> None:
    variables = {
        "APP_BROKER": redis_url,
        "APP_CONF": json.dumps({"result_backend": redis_url}),
        # The child that is killed still holds the spans of the task before.
        "OTEL_PYTHON_QUEUE_BRIDGE_CHILD_EXPORT": "relay",
        **HERE,
    }
    worker = processes.start(
        "worker",
        ["opentelemetry-instrument", "celery", "-A", APP, "worker", "-c", "1", "-l", "INFO"],
        env=otel_env(receiver, "worker") | variables,
        ready=" ready.",
        cwd=ROOT,
    )
    with Celery(broker=redis_url) as app:
        app.send_task(way)
    receiver.wait_for(lambda spans: any(span.name == "execute inner" for span in spans), LIMIT)
    assert worker.stop(signal.SIGTERM) == 0
    path = paths(receiver.spans(), lambda span: span.name)
    died = f"dispatch {way} > execute {way} > submit die > dispatch die > execute die"
    assert sorted(found for found in path.values() if found.startswith(died)) == [
        died,
        f"{died} > submit inner",
        f"{died} > submit inner > dispatch inner",
        f"{died} > submit inner > dispatch inner > execute inner",
        f"{died} > task failure",
    ]


def test_a_pool_that_brings_a_tracer_executes(
    redis_url: str, receiver: Receiver, processes: Processes
) -> None:
    own = {"CELERY_CUSTOM_WORKER_POOL": "tests.brokers.celery_own_pool:Pool"}
    worker = processes.start(
        "worker",
        ["opentelemetry-instrument", "celery", "-A", APP, "worker", "-P", "custom", "-l", "INFO"],
        env=otel_env(receiver, "worker") | {"APP_BROKER": redis_url, **HERE} | own,
        ready=" ready.",
        cwd=ROOT,
    )
    with Celery(broker=redis_url) as app:
        app.send_task("many", (1,))
    receiver.wait_for(lambda spans: any(span.name == "execute many" for span in spans), LIMIT)
    assert worker.stop(signal.SIGTERM) == 0
    path = paths(receiver.spans(), lambda span: span.name)
    executed = "dispatch many > execute many"
    assert sorted(path.values()) == ["dispatch many", executed, f"{executed} > user"]
    assert counts(receiver)["task.completed many"] == 1


def test_what_only_celery_has_is_on_its_spans(
    redis_url: str, receiver: Receiver, processes: Processes
) -> None:
    worker = processes.start(
        "worker",
        ["opentelemetry-instrument", "celery", "-A", APP, "worker", "-c", "1", "-l", "INFO"],
        env=otel_env(receiver, "worker") | {"APP_BROKER": redis_url, **HERE},
        ready=" ready.",
        cwd=ROOT,
    )
    with Celery(broker=redis_url) as app:
        limits = {"time_limit": 60, "soft_time_limit": 30}
        app.send_task("outer", expires=600, shadow="seen", reply_to="me", **limits)
    receiver.wait_for(lambda spans: any(span.name == "execute inner" for span in spans), LIMIT)
    assert worker.stop(signal.SIGTERM) == 0
    ours = {span.name: span.attributes for span in receiver.spans() if span.name != "user"}
    outer_id = ours["execute outer"]["messaging.message.id"]
    for name in ("dispatch outer", "execute outer"):
        assert (
            ours[name].items()
            >= {
                "celery.shadow": "seen",
                "celery.reply_to": "me",
                "celery.root_id": outer_id,
                "celery.time_limit": 60,
                "celery.soft_time_limit": 30,
                "celery.transport": "redis",
            }.items()
        )
        assert ours[name]["celery.expires"].startswith("20")
        assert not {"celery.parent_id", "celery.eta"} & ours[name].keys()
    for name in ("submit inner", "dispatch inner", "execute inner"):
        assert ours[name]["celery.parent_id"] == ours[name]["celery.root_id"] == outer_id


def test_a_url_without_a_host_is_read_without_a_warning(
    receiver: Receiver, processes: Processes
) -> None:
    """Kombu warns of it where it connects, which reading where the broker is does not do."""
    code = f"""if True:
        import os
        os.environ["APP_BROKER"] = "redis://"
        from otel_queue_bridge.adapters.celery import reading
        from {APP} import app
        print(reading.server(app), reading.transport(app))
    """
    ran = processes.start("reader", [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT)
    assert ran.wait() == 0
    assert ran.log().splitlines() == ["('localhost', 6379) redis"]
