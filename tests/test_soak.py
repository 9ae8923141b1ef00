"""A short soak of real workers, and that the comparison sees what is wrong."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from otel_queue_bridge.otlp import Point, Span
from soak.__main__ import choices
from soak.comparison import Allowance, compare
from soak.truth import OK, SERVICE, Truth
from tests.servers import LIMIT

ROOT = Path(__file__).parents[1]


def test_telemetry_is_what_happened_under_the_faults_of_a_seed() -> None:
    arguments = ["--queues", "dramatiq,rq", "--seed", "12", "--tasks", "9"]
    run = subprocess.run(
        [sys.executable, "-m", "soak", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=8 * LIMIT,  # of what hangs
    )
    assert run.returncode == 0, run.stdout + run.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in run.stdout.splitlines()]
    exported = {row[0]: row[1:] for row in rows if len(row) == 13}
    assert {queue: row[:2] for queue, row in exported.items()} == {
        "dramatiq": ["collector-fails", "grpc"],
        "rq": ["switched", "http/protobuf"],
    }
    for _, _, tasks, attempts, spans, lost, *_ in exported.values():
        assert int(attempts) > int(tasks) >= 30
        assert int(spans) + int(lost) >= int(attempts)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--faults", "rain"), "no such fault: rain; there are none, collector-gone, "),
        (("--queues", "pigeons"), "no such queue: pigeons; there are celery, "),
    ],
)
def test_an_unknown_choice_is_one_error(arguments: tuple[str, str], error: str, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        choices(arguments)
    assert ended.value.code == 2
    assert error in capsys.readouterr().err.splitlines()[-1]


# The comparison, with differences that are planted

ALL = Allowance(phases=("a", "b"))


class Exported:
    """What was exported of four tasks: one succeeds, one fails, one is retried, one is killed."""

    def __init__(self, folder: Path) -> None:
        self.truth = Truth(folder)
        self._spans: list[Span] = []
        self._points: dict[tuple[str, str], Point] = {}
        self._run("ok", "a0", OK)
        self._run("fail", "a1", "BoomError")
        self._run("again", "b0", "BoomError", OK)
        self._run("killed", "b1", "")

    def _run(self, name: str, key: str, *hows: str) -> None:
        self.truth.submitted(key, name, f"id of {key}")
        self.count("submitted", name)
        for how in hows:
            number = self.truth.began(key)
            if how:
                self.truth.ended(key, number, how)
            status = "success" if how == OK else "retry" if len(hows) > number else "failure"
            self._spans.append(span(f"id of {key}", number, status, how))
            self.count("dispatched", name)
            self.count("duration", name)
            self.count(f"completed {status}" if status != "retry" else "retried", name)

    def count(self, metric: str, name: str, more: int = 1) -> None:
        metric, _, status = metric.partition(" ")
        series = self._points.setdefault((f"{metric} {status}", name), point(metric, name, status))
        self._points[f"{metric} {status}", name] = replace(series, value=series.value + more)

    def change(self, at: int, **changes: Any) -> None:
        attributes = {**self._spans[at].attributes, **changes.pop("attributes", {})}
        self._spans[at] = replace(self._spans[at], attributes=attributes, **changes)

    def lose(self, at: int) -> None:
        del self._spans[at]

    def repeat(self, at: int) -> None:
        self._spans.append(self._spans[at])

    def spans(self) -> list[Span]:
        return list(self._spans)

    def latest(self) -> list[Point]:
        return list(self._points.values())


def span(task_id: str, attempt: int, status: str, how: str) -> Span:
    failed = status != "success"
    return Span(
        **dict.fromkeys(("name", "parent_id", "status_message", "service", "scope"), ""),
        **dict.fromkeys(("scope_version", "schema_url", "trace_id"), ""),
        kind="CONSUMER",
        span_id=f"{task_id} {attempt}",
        start=0,
        end=1,
        attributes={
            "messaging.operation.name": "execute",
            "messaging.message.id": task_id,
            "task.attempt": attempt,
            "task.status": status,
            **({"error.type": f"soak.tasks.{how or 'Killed'}"} if failed else {}),
        },
        events=(),
        links=(),
        status="ERROR" if failed else "UNSET",
        resource={},
    )


def point(metric: str, name: str, status: str) -> Point:
    return Point(
        metric=f"task.{metric}",
        **dict.fromkeys(("unit", "description", "kind", "temporality", "service", "scope"), ""),
        monotonic=True,
        attributes={"messaging.system": "rq", "task.name": f"app.{name}", "task.status": status},
        resource={},
        start=0,
        time=0,
    )


@pytest.fixture
def exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exported:
    monkeypatch.setenv(SERVICE, "worker")
    return Exported(tmp_path)


def test_what_agrees_has_no_difference(exported: Exported) -> None:
    found = compare(exported.truth, exported, "rq", ALL)
    assert found.lines() == []
    assert (found.tasks, found.attempts, found.spans) == (4, 5, 5)


PLANTED: dict[str, tuple[str, Callable[[Exported], None]]] = {
    "a lost span": ("missing", lambda exported: exported.lose(0)),
    "the lost span of a retry": ("missing", lambda exported: exported.lose(2)),
    "the lost span of a killed child": ("missing", lambda exported: exported.lose(4)),
    "a repeated span": ("doubled", lambda exported: exported.repeat(1)),
    "a stray span": (
        "doubled",
        lambda exported: [
            exported.repeat(0),
            exported.change(-1, attributes={"messaging.message.id": "unknown"}),
        ],
    ),
    "a failure that is a success": (
        "wrong",
        lambda exported: exported.change(1, attributes={"task.status": "success"}),
    ),
    "a failure that is not red": ("wrong", lambda exported: exported.change(1, status="UNSET")),
    "a success that is red": ("wrong", lambda exported: exported.change(0, status="ERROR")),
    "another error": (
        "wrong",
        lambda exported: exported.change(1, attributes={"error.type": "OSError"}),
    ),
    "a killed child without an error": (
        "wrong",
        lambda exported: exported.change(4, attributes={"error.type": ""}),
    ),
    "attempts that are exchanged": (
        "wrong",
        lambda exported: [
            exported.change(at, attributes={"task.attempt": 3 - at}) for at in (2, 3)
        ],
    ),
    "too few submitted": ("counters", lambda exported: exported.count("submitted", "ok", -1)),
    "too many dispatched": ("counters", lambda exported: exported.count("dispatched", "again")),
    "a retry that is not counted": (
        "counters",
        lambda exported: exported.count("retried", "again", -1),
    ),
    "completed with another status": (
        "counters",
        lambda exported: [
            exported.count("completed success", "ok", -1),
            exported.count("completed failure", "ok"),
        ],
    ),
    "a count of what never was": (
        "counters",
        lambda exported: exported.count("submitted", "ghost"),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_difference_is_found(exported: Exported, name: str) -> None:
    kind, plant = PLANTED[name]
    plant(exported)
    found = compare(exported.truth, exported, "rq", ALL)
    assert {line.partition(":")[0] for line in found.lines()} == {kind}


def test_a_fault_excuses_its_own_load_and_no_other(exported: Exported) -> None:
    excusing = replace(ALL, span=lambda attempt: attempt.key.startswith("b"))
    exported.lose(3)
    found = compare(exported.truth, exported, "rq", excusing)
    assert (found.lines(), found.excused) == ([], 1)
    exported.lose(0)
    found = compare(exported.truth, exported, "rq", excusing)
    assert [line.partition(":")[0] for line in found.lines()] == ["missing"]


def test_what_a_kill_may_take_along_has_a_bound(exported: Exported) -> None:
    killed = replace(ALL, count=lambda attempt: attempt.key.startswith("b"), slack=1)
    exported.count("completed success", "again", -1)
    exported.count("dispatched", "ok")
    assert compare(exported.truth, exported, "rq", killed).lines() == []
    exported.count("dispatched", "ok")
    assert [
        line.partition(":")[0] for line in compare(exported.truth, exported, "rq", killed).lines()
    ] == ["counters"]
