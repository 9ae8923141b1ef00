"""A user's own worker script, wherever it sets up the SDK and switches us on."""

import sys
from collections import Counter

import pytest
from redis import Redis
from rq import Queue

from otel_queue_bridge.otlp import Receiver
from tests.brokers.shop import ROOT, paths
from tests.servers import Processes, otel_env

APP = "tests.brokers.rq_setups_app"
TASKS = 3
RARELY = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
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


@pytest.mark.parametrize("kind", ["forking", "simple"])
@pytest.mark.parametrize(
    "moments",
    [
        {"EARLY": "sdk instrument"},
        {"EARLY": "instrument sdk"},
        {"LATE": "instrument sdk"},
        {"EARLY": "instrument", "LATE": "sdk"},
        {"EARLY": "sdk", "LATE": "instrument"},
        {"HORSE": "sdk instrument"},
        {"HORSE": "instrument sdk"},
        {"EARLY": "instrument", "HORSE": "sdk"},
        {"EARLY": "sdk", "HORSE": "instrument"},
    ],
    ids=lambda moments: ", ".join(f"{key} {value}".lower() for key, value in moments.items()),
)
def test_each_order(
    redis_url: str,
    receiver: Receiver,
    processes: Processes,
    moments: dict[str, str],
    kind: str,
) -> None:
    in_horses = "HORSE" in moments
    if in_horses and kind == "simple":
        pytest.skip("a simple worker has no work-horses")
    with Redis.from_url(redis_url) as client:
        for _ in range(TASKS):
            Queue(connection=client).enqueue(f"{APP}.outer")
    variables = {f"APP_{moment}": actions for moment, actions in moments.items()}
    worker = processes.start(
        "worker",
        [sys.executable, "-m", APP, kind],
        env=otel_env(receiver, "worker")
        | {"APP_BROKER": redis_url, "PYTHONPATH": str(ROOT), **RARELY, **variables},
        cwd=ROOT,
    )
    assert worker.wait() == 0
    path = paths(receiver.spans(), lambda span: span.name.replace(f"{APP}.", ""))
    dispatch = "" if in_horses else "dispatch {} > "
    outer = f"{dispatch.format('outer')}execute outer"
    submit = f"{outer} > user > submit inner"
    inner = f"{submit} > {dispatch.format('inner')}execute inner"
    expected = [outer, f"{outer} > user", submit, inner]
    if dispatch:
        expected += ["dispatch outer", f"{submit} > dispatch inner"]
    assert Counter(path.values()) == Counter(expected * TASKS)
    counts: Counter[str] = Counter()
    for point in receiver.latest():
        if "task.name" in point.attributes:
            name = point.attributes["task.name"].rpartition(".")[2]
            counts[f"{point.metric} {name}"] += point.count or int(point.value)
    assert counts == EXPECTED
