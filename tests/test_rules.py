"""The alerts, as Prometheus evaluates them: each fires for its fault, and not before."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dashboards.names import (
    OF_QUEUES,
    QUEUE,
    SYSTEM,
    TASK,
    Names,
)
from dashboards.queries import Queries
from dashboards.rules import ALERTS, Alert, rules
from otel_queue_bridge.semconv import (
    BUSY,
    COMPLETED,
    DEAD,
    DELAYED,
    DEPTH,
    DISPATCHED,
    DURATION,
    NAMINGS,
    OLDEST,
    RETRIED,
    SUBMITTED,
    WAIT,
    WORKERS,
    Naming,
)
from tests.servers import LIMIT, absent

LENGTH = 500
"""Minutes of made-up data."""


def rising(per_minute: int, minutes: int = LENGTH) -> str:
    """A counter; after these minutes it stands still."""
    left = LENGTH - minutes
    rest = f" {per_minute * minutes}x{left}" if left else ""
    return f"0+{per_minute}x{minutes}{rest}"


def steady(value: int) -> str:
    return f"{value}x{LENGTH}"


HEALTHY = {
    "submitted": rising(10),
    "dispatched": rising(11),
    "retried": rising(1),
    "success": rising(10),
    "quick": rising(11),  # waited up to 1 s
    "waited": rising(11),  # up to 5 minutes, so all
    "active": steady(4),
    "busy": steady(3),
    "depth": steady(2),
    "dead": steady(7),
    "oldest": steady(5),
}


class Case(NamedTuple):
    name: str
    changed: dict[str, str]
    """What is not as in `HEALTHY`; nothing for what nobody reports."""
    fires: dict[int, dict[str, str]]
    """All that fires at a minute: alert, and what it says."""


IN_QUEUE = "queue low of celery"
FAILS = {"TaskFailures": f"20% of mail in {IN_QUEUE} fail"}
GONE = {"TaskWorkersGone": "No worker of celery is left"}
GROWING = {
    "TaskBacklogGrowing": f"265 tasks wait in {IN_QUEUE}, and their number grows",
}
LOST = {"TaskNotCompleted": "50% of mail submitted to celery in the last hour have not ended"}
STUCK = {"TaskQueueStuck": f"2 tasks wait in {IN_QUEUE}, and none ends"}
NOTHING_ENDS = {
    **STUCK,
    "TaskNotCompleted": "100% of mail submitted to celery in the last hour have not ended",
}
STANDSTILL = {
    "submitted": rising(10, 60),
    "dispatched": rising(11, 60),
    "retried": rising(1, 60),
    "success": rising(10, 60),
}
CASES = [
    Case("all is well", {}, {minute: {} for minute in (1, 6, 30, 120)}),
    Case(
        "a fifth fails",
        {"success": rising(8), "failure": rising(2)},
        {5: {}, 20: FAILS, 60: FAILS},
    ),
    Case("a fifth is rejected", {"success": rising(8), "rejected": rising(2)}, {5: {}, 20: FAILS}),
    Case("a fifth is cancelled", {"success": rising(8), "cancelled": rising(2)}, {60: {}}),
    Case("a tenth fails", {"success": rising(9), "failure": rising(1)}, {60: {}}),
    Case(
        "all of the few fail",
        {
            "submitted": rising(1),
            "dispatched": rising(1),
            "retried": "",
            "success": "",
            "failure": rising(1),
        },
        {60: {}},
    ),
    Case(
        "most wait for minutes",
        {"quick": rising(5)},
        {5: {}, 20: {"TaskWaitLong": f"Tasks in {IN_QUEUE} wait up to 4m 38s (p95)"}},
    ),
    Case(
        "the backlog grows",
        {"submitted": rising(20), "depth": f"5+10x{LENGTH}"},
        {10: {}, 22: LOST, 31: LOST | GROWING},
    ),
    Case("the backlog is long", {"depth": steady(9000)}, {60: {}}),
    Case(
        "a peak is worked off",
        {"depth": f"2x60 900-30x29 2x{LENGTH}"},
        {n: {} for n in range(55, 100, 3)},
    ),
    Case(
        "nothing ends any more",
        STANDSTILL,
        {60: {}, 72: {}, 78: STUCK, 100: STUCK},
    ),
    Case(
        "all attempts are tried again, but these end",
        STANDSTILL | {"dispatched": rising(11), "retried": rising(1)},
        {90: {}},
    ),
    Case("nothing has ended at all", {"success": "", "retried": ""}, {9: {}, 30: NOTHING_ENDS}),
    Case(
        "all workers are busy",
        {"busy": steady(4)},
        {14: {}, 16: {"TaskWorkersSaturated": "100% of the workers of celery are busy"}},
    ),
    Case(
        "the workers died",
        {"active": "4x30", "busy": "3x30", "depth": "2x30"},
        {34: {}, 39: {}, 41: GONE, 380: GONE, 400: {}},
    ),
    Case(
        "the workers stopped",
        {"active": f"4x30 0x{LENGTH}", "busy": f"3x30 0x{LENGTH}"},
        {34: {}, 37: GONE},
    ),
    Case("half of the workers left", {"active": f"8x30 4x{LENGTH}"}, {60: {}}),
    Case(
        "most attempts are tried again",
        {"dispatched": rising(100), "retried": rising(90)},
        {
            4: {},
            20: {"TaskRetryStorm": f"90% of the attempts of mail in {IN_QUEUE} are tried again"},
        },
    ),
    Case(
        "dead letters",
        {"dead": f"7x30 12x{LENGTH}"},
        {30: {}, 33: {"TaskDeadLetters": f"5 more dead tasks in {IN_QUEUE}"}, 50: {}},
    ),
    Case("dead letters are cleared", {"dead": f"7x30 0x{LENGTH}"}, {33: {}}),
    Case(
        "the oldest waits",
        {"oldest": f"0+60x{LENGTH}"},
        {15: {}, 16: {"TaskOldestWaits": f"The oldest task in {IN_QUEUE} has waited 16m 0s"}},
    ),
    Case(
        "half is lost",
        {"success": rising(5)},
        {14: {}, 60: LOST},
    ),
    Case("callers are not instrumented", {"submitted": ""}, {60: {}}),
    Case("some callers are not instrumented", {"submitted": rising(3)}, {60: {}}),
    Case("no metrics of the queue library", dict.fromkeys(HEALTHY, ""), {60: {}}),
]
METRICS = {
    "submitted": SUBMITTED,
    "dispatched": DISPATCHED,
    "retried": RETRIED,
    "active": WORKERS,
    "busy": BUSY,
    "depth": DEPTH,
    "dead": DEAD,
    "oldest": OLDEST,
}
BOUNDS = {"quick": ("1", "60"), "waited": ("300", "+Inf")}
STATUSES = ("success", "failure", "rejected", "cancelled")


LABELS = {SYSTEM: "celery", QUEUE: "low", TASK: "mail"}
GROUPS = {
    "TaskWorkersSaturated": {SYSTEM},
    "TaskWorkersGone": {SYSTEM},
    "TaskFailures": {SYSTEM, QUEUE, TASK},
    "TaskRetryStorm": {SYSTEM, QUEUE, TASK},
    "TaskNotCompleted": {SYSTEM, TASK},
}
"""The labels of an alert that is not about a queue."""


def series(
    names: Names, values: dict[str, str], labels: dict[str, str]
) -> Iterator[dict[str, str]]:
    """Yield the input of promtool: what these values are called in a vocabulary."""

    def made(metric, part="", **more):
        known = {key: text for key, text in labels.items() if key in names.labels(metric)}
        listed = ",".join(
            f'{key}="{text}"' for key, text in {**known, "job": "shop", **more}.items()
        )
        name = names.series(metric, part).replace(".+", labels.get(SYSTEM, "celery"))
        return {"series": f"{name}{{{listed}}}", "values": values[key]}

    for key in values:
        if key in STATUSES:
            if names.has(COMPLETED):
                yield made(COMPLETED, **{names.status: key})
            else:
                yield made(DURATION, "count", **{names.status: key})
        elif key == "retried" and not names.has(RETRIED):
            yield made(DURATION, "count", **{names.status: "retry"})
        elif key in BOUNDS:
            if names.has(WAIT):
                yield from (made(WAIT, "bucket", le=bound) for bound in BOUNDS[key])
        elif names.has(METRICS[key]):
            yield made(METRICS[key])
            if METRICS[key] in OF_QUEUES:  # each worker process reads the whole queue
                yield made(METRICS[key], instance="another")


def expected(alert: Alert, says: str | None) -> list[dict[str, object]]:
    if says is None:
        return []
    group = GROUPS.get(alert.name, {SYSTEM, QUEUE})
    labels = {key: text for key, text in LABELS.items() if key in group}
    annotations = {"summary": says, "description": alert.first, "runbook_url": alert.section}
    return [{"exp_labels": labels | {"severity": alert.severity}, "exp_annotations": annotations}]


def run(folder: Path, naming: Naming, tests: list[dict[str, object]]) -> None:
    """Have promtool evaluate the rules of a vocabulary."""
    promtool = shutil.which("promtool")
    if promtool is None:
        absent("promtool (Debian's package prometheus)")
    (folder / "rules.yml").write_text(rules(naming))
    file = folder / "tests.yml"
    # JSON is YAML, too.
    file.write_text(json.dumps({"rule_files": ["rules.yml"], "tests": tests}))
    ran = subprocess.run(
        [promtool, "test", "rules", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def fires(naming: Naming, minutes: dict[int, dict[str, str]]) -> list[dict[str, object]]:
    """Return the questions for promtool: whatever is not listed must not fire."""
    written = rules(naming)
    there = [alert for alert in ALERTS if f"alert: {alert.name}\n" in written]
    return [
        {
            "eval_time": f"{minute}m",
            "alertname": alert.name,
            "exp_alerts": expected(alert, alerts.get(alert.name)),
        }
        for minute, alerts in minutes.items()
        for alert in there
    ]


@pytest.mark.parametrize("naming", NAMINGS)
def test_each_alert_fires_for_its_fault_alone(naming: Naming, tmp_path: Path) -> None:
    tests = []
    for case in CASES:
        values = {key: text for key, text in (HEALTHY | case.changed).items() if text}
        tests.append(
            {
                "name": case.name,
                "interval": "1m",
                "input_series": list(series(Names(naming), values, LABELS)),
                "alert_rule_test": fires(naming, case.fires),
            }
        )
    run(tmp_path, naming, tests)


def test_every_alert_has_a_case() -> None:
    fired = {alert for case in CASES for alerts in case.fires.values() for alert in alerts}
    assert fired == {alert.name for alert in ALERTS}


FAULTS = {
    "success": rising(8),
    "failure": rising(50),
    "quick": rising(0),
    "retried": rising(90),
    "depth": f"0+50x{LENGTH}",
    "busy": steady(9),
    "dead": f"0+9x{LENGTH}",
    "oldest": f"0+900x{LENGTH}",
    "submitted": rising(500),
}


@pytest.mark.parametrize("naming", NAMINGS)
def test_what_others_call_the_same_fires_nothing(naming: Naming, tmp_path: Path) -> None:
    """Another vocabulary, as while a fleet changes; and other programs, which name no system."""
    others = [
        one
        for other in NAMINGS
        if other != naming
        for one in series(Names(other), HEALTHY | FAULTS, LABELS)
    ]
    strangers = series(Names(naming), HEALTHY | FAULTS, {QUEUE: "low", TASK: "mail"})
    if naming == "messaging":  # other messaging instrumentations have a system, but no task
        strangers = series(Names(naming), HEALTHY | FAULTS, {SYSTEM: "celery", QUEUE: "low"})
    ours = series(Names(naming), HEALTHY, LABELS)
    test = {
        "interval": "1m",
        "input_series": [*others, *strangers, *ours],
        "alert_rule_test": fires(naming, {minute: {} for minute in (20, 60)}),
    }
    run(tmp_path, naming, [test])


def test_how_processes_add_up(tmp_path: Path) -> None:
    """Workers add up, queues do not, and of what is delayed only what Celery's workers hold."""
    names, ask = Names("task"), Queries("task")

    def labels(system: str, queue: str | None, *more: str) -> str:
        queues = [f'{QUEUE}="{queue}"'] if queue else []
        return "{" + ", ".join([f'{SYSTEM}="{system}"', *queues, *more]) + "}"

    readings = [
        (WORKERS, "celery", None, 4),
        (DEPTH, "celery", "low", 5),
        (DELAYED, "celery", "low", 6),
        (DELAYED, "celery", "celery_delayed", 7),
        (DELAYED, "rq", "low", 8),
    ]
    series = [
        {
            "series": names.series(metric) + labels(system, queue, f'job="{job}"'),
            "values": steady(value),
        }
        for metric, system, queue, value in readings
        for job in ("one", "other")
    ]
    answers = {
        ask.workers(WORKERS): {("celery", None): 8},
        ask.queue(DEPTH): {("celery", "low"): 5},
        ask.delayed(): {("celery", "low"): 12, ("celery", "celery_delayed"): 7, ("rq", "low"): 8},
    }
    questions = [
        {
            "expr": expression,
            "eval_time": "9m",
            "exp_samples": [
                {"labels": labels(*group), "value": value} for group, value in expected.items()
            ],
        }
        for expression, expected in answers.items()
    ]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": questions}
    run(tmp_path, "task", [test])


def test_all_times_can_be_shorter() -> None:
    slow, fast = rules("task"), rules("task", faster=60)
    for long, short in (("for: 5m", "for: 5s"), ("[10m]", "[10s]"), ("[6h]", "[6m]")):
        assert long in slow
        assert long not in fast
        assert short in fast
