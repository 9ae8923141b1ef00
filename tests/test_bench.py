from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

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
path, who = sys.argv[1:]
runner = cells.Runner(cells.Cell(path, "recording", who))
runner.timed(1)
names = {"submit": ["submit"], "work": ["dispatch", "execute"]}[path]
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
def test_the_floor_records_what_we_record(path):
    spans, points = json.loads(run("-c", RECORDED, path, "floor"))
    assert len(spans) == (1 if path == "submit" else 2)
    our_spans, our_points = json.loads(run("-c", RECORDED, path, "ours"))
    assert our_spans[-len(spans) :] == spans
    assert our_points == points


def test_the_table_has_every_row(tmp_path):
    file = tmp_path / "measured.json"
    lines = run("-m", "benchmarks", "--quick", "--json", str(file)).splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:3]] for line in lines if "µs" in line]
    modes = ("recording", "sampled out", "no SDK")
    assert rows == [[path, mode] for path in ("submit", "work") for mode in modes]
    cells = json.loads(file.read_text())
    measured = {(cell["path"], cell["mode"], cell["who"]) for cell in cells if "mode" in cell}
    assert len(measured) == 18
    jobs = [cell["who"] for cell in cells if cell["path"] == "rq job"]
    assert jobs == ["nothing", "SDK alone", "relay", "own"]
