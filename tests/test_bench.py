from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cells import Cell, cells
from benchmarks.goals import goal, too_dear
from benchmarks.paths import QUEUES

ROOT = Path(__file__).parent.parent

RECORDED = """
import json, sys
from benchmarks import cells

spans, readers = [], []

class Exporter(cells.NoExporter):
    def export(self, batch):
        spans.extend(batch)
        return super().export(batch)

class Reader(cells.InMemoryMetricReader):
    def __init__(self):
        super().__init__()
        readers.append(self)

cells.NoExporter, cells.InMemoryMetricReader = Exporter, Reader
queue, path, who = sys.argv[1:]
runner = cells.Runner(cells.Cell(queue, path, "recording", who))
runner.timed(1)
names = {"submit": ["submit", "nng.req_reply"], "work": ["dispatch", "execute"]}[path]
metrics = json.loads(readers[0].get_metrics_data().to_json())["resource_metrics"]
json.dump(
    [
        [
            [span.name, span.kind.name, span.parent is not None, sorted(span.attributes)]
            for span in spans
            if span.name.split()[0] in names
        ],
        sorted(
            [metric["name"], point["attributes"]]
            for of_resource in metrics
            for scope in of_resource["scope_metrics"]
            for metric in scope["metrics"]
            for point in metric["data"]["data_points"]
            # The task that Runner submits to have a message is ours alone.
            if path == "submit" or metric["name"] != "task.submitted"
        ),
    ],
    sys.stdout,
)
"""


def run(*command):
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


@pytest.mark.parametrize("path", ["submit", "work"])
@pytest.mark.parametrize("queue", QUEUES)
def test_the_floor_records_what_we_record(queue, path):
    spans, points = json.loads(run("-c", RECORDED, queue, path, "floor"))
    assert len(spans) == (2 if path == "work" or queue == "fastworker" else 1)
    our_spans, our_points = json.loads(run("-c", RECORDED, queue, path, "ours"))
    assert sorted(our_spans[-len(spans) :]) == sorted(spans)
    assert our_points == points


def test_the_tables_have_every_row(tmp_path):
    file = tmp_path / "measured.json"
    command = ("-m", "benchmarks", "--quick", "--queues", "celery", "--json", str(file))
    lines = run(*command).splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in lines if "µs" in line]
    modes = ("recording", "sampled out", "no SDK")
    assert rows == [[path, mode] for path in ("submit", "work") for mode in modes]
    found = json.loads(file.read_text())
    jobs = [one["who"] for one in found if one["path"] == "rq job"]
    assert {tuple(one[key] for key in Cell._fields) for one in found[: -len(jobs)]} == {
        *cells(["celery"])
    }
    assert jobs == ["nothing", "SDK alone", "relay", "own"]


def test_a_goal_that_is_missed_is_named():
    measured = {cell: 100.0 if cell.who == "nothing" else 200.0 for cell in cells(["rq"])}
    missed = too_dear(measured, ["rq"])
    assert [line.partition(":")[0] for line in missed] == [
        "rq, submit, no SDK",
        "rq, work, no SDK",
    ]
    measured[Cell("rq", "work", "recording", "ours")] = 216.0
    assert "rq, work, recording: 1.16 is more than 1.15" in too_dear(measured, ["rq"])
    assert goal("rq", "work", "recording") == "1.15"


@pytest.mark.parametrize("module", ["benchmarks", "benchmarks.workers"])
def test_an_unknown_queue_is_refused(module):
    done = subprocess.run(
        [sys.executable, "-m", module, "--queues", "celery,kafka"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "no such queue: kafka; there are celery, " in done.stderr


def test_growth_and_latency_have_every_row():
    growth = run("-m", "benchmarks.growth", "--tasks", "400")
    assert [line.split("│")[1].strip() for line in growth.splitlines() if "│" in line] == [
        "1 name, 1 queue",
        "200 names, 1 queue",
        "200 names, 1000 queues",
        "64 threads",
        *(["400 at once, asyncio"] if "fastworker" in QUEUES else []),
    ]
    latency = run("-m", "benchmarks.latency", "--submits", "20", "--rounds", "1")
    assert [line.split("│")[1].strip() for line in latency.splitlines() if "│" in line] == [
        "celery",
        "dramatiq",
        "rq",
    ]
