"""Instructions per task, counted by valgrind's callgrind: no other program can disturb them.

We subtract a run of few tasks from a run of many, so that start and warm-up cancel out. We take
the minimum of some turns, because now and then Python does something as costly as ten tasks.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import paths
from benchmarks.cells import Cell, Runner

if TYPE_CHECKING:
    from collections.abc import Sequence

_WARM = 40
"""The number of tasks after which CPython has specialised its byte code."""
_TURNS = 2


def measure(chosen: Sequence[Cell], tasks: int) -> dict[Cell, float]:
    """Return thousands per task; each queue has a process, which forks for each run."""
    groups = [list(group) for _, group in groupby(chosen, lambda cell: cell.queue)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        measured = pool.map(lambda group: _measure(group, tasks), groups)
        return {cell: amount for amounts in measured for cell, amount in amounts.items()}


def _measure(chosen: Sequence[Cell], tasks: int) -> dict[Cell, float]:
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        done = subprocess.run(  # noqa: S603 - our own module
            [  # noqa: S607 - valgrind may be anywhere
                "valgrind",
                "--tool=callgrind",
                f"--callgrind-out-file={logs / 'callgrind.%p'}",
                f"--log-file={logs / '%p'}",
                sys.executable,
                "-c",
                f"from {__name__} import run_all; run_all({json.dumps(chosen)}, {tasks})",
            ],
            check=True,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        counts = [
            min(_counted(logs / str(process)) for process in processes)
            for processes in json.loads(done.stdout)
        ]
    return {
        cell: (many - few) / tasks / 1000
        for cell, few, many in zip(chosen, counts[::2], counts[1::2], strict=True)
    }


def _counted(log: Path) -> int:
    return int(re.search(r"Collected : (\d+)", log.read_text())[1])


def run_all(chosen: Sequence[Sequence[str]], tasks: int) -> None:
    """Run each cell, and print the ids of its processes, whose logs have the counts."""
    gc.disable()  # one collection more or less would be the largest difference of all
    wanted = [Cell(*cell) for cell in chosen]
    for queue in {cell.queue for cell in wanted}:
        paths.load(queue)  # once, and not in every fork
    runs = [(cell, count) for cell in wanted for count in (_WARM, _WARM + tasks)]
    json.dump([[_run(*run) for _ in range(_TURNS)] for run in runs], sys.stdout)


def _run(cell: Cell, tasks: int) -> int:
    """Run the tasks in a process that has its own valgrind log, and return its process id."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            Runner(cell).run(tasks)
            status = 0
        finally:
            os._exit(status)
    if os.waitpid(process, 0)[1]:
        raise RuntimeError(f"{cell} failed")
    return process
