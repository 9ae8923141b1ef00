"""Measure what is added to a plain task, print it, and compare it with the floor.

python -m benchmarks [--queues celery,rq] [--instructions] [--gate] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks import cpu, instructions, rq_jobs
from benchmarks.arguments import add_queues
from benchmarks.cells import MODES, PATHS, Cell, cells, nothing
from benchmarks.goals import goal, too_dear
from benchmarks.paths import QUEUES

if TYPE_CHECKING:
    from collections.abc import Mapping


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add_queues(parser, QUEUES)
    parser.add_argument("--quick", action="store_true", help="only check that everything runs")
    parser.add_argument("--instructions", action="store_true", help="count them too (valgrind)")
    parser.add_argument(
        "--gate", action="store_true", help="count instructions, and fail where a goal is missed"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    options = parser.parse_args()
    chosen = cells(options.queues)
    measured: dict[str, dict[Cell, float]] = {}
    if not options.gate:
        measured["µs"] = cpu.measure(chosen, *((2, 20) if options.quick else (40, 250)))
    if options.instructions or options.gate:
        measured["k instr."] = instructions.measure(chosen, 10 if options.quick else 60)
    jobs = rq_jobs.measure(*((5, 1) if options.quick else (60, 5))) if not options.gate else {}
    # A pipe has no width that `rich` could use.
    console = Console(width=None if os.isatty(1) else 120)
    for queue in options.queues:
        console.print(table(queue, measured))
    if jobs:
        console.print(table_of_jobs(jobs))
    if options.json:
        options.json.write_text(json.dumps(_plain(measured, jobs), indent=1))
    if options.gate:
        missed = too_dear(measured["k instr."], options.queues)
        sys.exit("\n".join(missed) or 0)


def table(queue: str, measured: Mapping[str, Mapping[Cell, float]]) -> Table:
    """Show what each variant adds to a task, and how that compares to the floor."""
    drawn = Table(title=f"Added to one task of {queue}")
    for name in ("path", "SDK", "unit"):
        drawn.add_column(name)
    for name in (
        "nothing",
        "+ floor",
        "+ ours",
        "ours/floor",
        "goal",
        "+ contrib",
        "contrib/floor",
    ):
        drawn.add_column(name, justify="right")
    for unit, amounts in measured.items():
        for path in PATHS:
            plain = amounts[nothing(queue, path)]
            for mode in MODES:
                floor, ours, contrib = (
                    amounts[cell] - plain if cell in amounts else None
                    for cell in (
                        Cell(queue, path, mode, who) for who in ("floor", "ours", "contrib")
                    )
                )
                row = (_amount(plain), _amount(floor), _amount(ours), _ratio(ours, floor))
                goals = goal(queue, path, mode) if unit != "µs" else ""
                drawn.add_row(
                    path, mode, unit, *row, goals, _amount(contrib), _ratio(contrib, floor)
                )
            drawn.add_section()
    return drawn


def table_of_jobs(jobs: Mapping[str, float]) -> Table:
    """Show the wall time of a job, and how much of it telemetry adds."""
    drawn = Table(
        title="One RQ job in a work-horse, median (goal: relay at most 1.5 ms over the SDK)"
    )
    for name in ("telemetry", "ms", "added"):
        drawn.add_column(name, justify="left" if name == "telemetry" else "right")
    for who, amount in jobs.items():
        drawn.add_row(who, f"{amount:.1f}", f"{amount - jobs['nothing']:.1f}")
    return drawn


def _plain(
    measured: Mapping[str, Mapping[Cell, float]], jobs: Mapping[str, float]
) -> list[dict[str, object]]:
    return [
        {**cell._asdict(), "unit": unit, "per_task": amount}
        for unit, amounts in measured.items()
        for cell, amount in amounts.items()
    ] + [
        {"path": "rq job", "who": who, "unit": "ms", "per_task": amount}
        for who, amount in jobs.items()
    ]


def _amount(added: float | None) -> str:
    return "" if added is None else f"{added:.1f}"


def _ratio(added: float | None, floor: float | None) -> str:
    return f"{added / floor:.2f}" if added and floor else ""


if __name__ == "__main__":
    main()
