"""Measure, and print what is added to a plain task.

python -m benchmarks [--quick] [--instructions] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from benchmarks import cpu, instructions, rq_jobs
from benchmarks.cells import MODES, NOTHING, PATHS, Cell

if TYPE_CHECKING:
    from collections.abc import Mapping

_AIM = {"recording": "1.30", "sampled out": "1.50"}
"""Our cost, as a multiple of the floor, should be at most this."""
_AIM_WITHOUT = {"submit": "6 µs", "work": "12 µs"}
"""Our cost without an SDK should be at most 6 µs per operation; `work` has two of them."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only check that everything runs")
    parser.add_argument("--instructions", action="store_true", help="count them too (valgrind)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    options = parser.parse_args()
    measured = {"µs": cpu.measure(*((2, 20) if options.quick else (40, 250)))}
    if options.instructions:
        measured["k instr."] = instructions.measure(10 if options.quick else 60)
    jobs = rq_jobs.measure(*((5, 1) if options.quick else (60, 5)))
    # A pipe has no width that `rich` could use.
    console = Console(width=None if os.isatty(1) else 120)
    console.print(table(measured))
    console.print(table_of_jobs(jobs))
    if options.json:
        options.json.write_text(
            json.dumps(
                [
                    {**cell._asdict(), "unit": unit, "per_task": amount}
                    for unit, amounts in measured.items()
                    for cell, amount in amounts.items()
                ]
                + [
                    {"path": "rq job", "who": who, "unit": "ms"} | {"per_task": amount}
                    for who, amount in jobs.items()
                ],
                indent=1,
            )
        )


def table(measured: Mapping[str, Mapping[Cell, float]]) -> Table:
    """Show what each variant adds to a task, and how that compares to the floor."""
    drawn = Table(title="Added to one Celery task")
    for name in ("path", "SDK", "unit"):
        drawn.add_column(name)
    for name in ("nothing", "+ floor", "+ ours", "ours/floor", "aim", "+ contrib", "contrib/floor"):
        drawn.add_column(name, justify="right")
    for unit, amounts in measured.items():
        for path in PATHS:
            plain = amounts[NOTHING[path]]
            for mode in MODES:
                floor, ours, contrib = (
                    amounts[cell] - plain if cell in amounts else None
                    for cell in (Cell(path, mode, who) for who in ("floor", "ours", "contrib"))
                )
                aim = _AIM.get(mode, _AIM_WITHOUT[path] if unit == "µs" else "")
                row = (_amount(plain), _amount(floor), _amount(ours), _ratio(ours, floor), aim)
                drawn.add_row(path, mode, unit, *row, _amount(contrib), _ratio(contrib, floor))
            drawn.add_section()
    return drawn


def table_of_jobs(jobs: Mapping[str, float]) -> Table:
    """Show the wall time of a job, and how much of it telemetry adds."""
    drawn = Table(title="One RQ job in a work-horse, median (aim: 3 ms added)")
    for name in ("telemetry", "ms", "added"):
        drawn.add_column(name, justify="left" if name == "telemetry" else "right")
    for who, amount in jobs.items():
        drawn.add_row(who, f"{amount:.1f}", f"{amount - jobs['nothing']:.1f}")
    return drawn


def _amount(added: float | None) -> str:
    return "" if added is None else f"{added:.1f}"


def _ratio(added: float | None, floor: float | None) -> str:
    return f"{added / floor:.2f}" if added and floor else ""


if __name__ == "__main__":
    main()
