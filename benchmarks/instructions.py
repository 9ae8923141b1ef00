"""Instructions per task, counted by valgrind's callgrind: no other program can disturb them.

    python -m benchmarks.instructions TASKS

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
from pathlib import Path

from benchmarks.cells import CELLS, Cell, Runner

_WARM = 40
"""The number of tasks after which CPython has specialised its byte code."""
_TURNS = 2


def measure(tasks: int) -> dict[Cell, float]:
    """Return thousands of instructions per task."""
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)
        done = subprocess.run(  # noqa: S603 - our own module
            [  # noqa: S607 - valgrind may be anywhere
                "valgrind",
                "--tool=callgrind",
                f"--callgrind-out-file={logs / 'callgrind.%p'}",
                f"--log-file={logs / '%p'}",
                sys.executable,
                *("-m", __name__, str(tasks)),
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
        for cell, few, many in zip(CELLS, counts[::2], counts[1::2], strict=True)
    }


def _counted(log: Path) -> int:
    return int(re.search(r"Collected : (\d+)", log.read_text())[1])


def _run(cell: Cell, tasks: int) -> int:
    """Run the tasks in a process that has its own valgrind log, and return its process id."""
    process = os.fork()
    if process == 0:
        Runner(cell).run(tasks)
        os._exit(0)
    os.waitpid(process, 0)
    return process


if __name__ == "__main__":
    gc.disable()  # one collection more or less would be the largest difference of all
    more = int(sys.argv[1])
    runs = [(cell, tasks) for cell in CELLS for tasks in (_WARM, _WARM + more)]
    json.dump([[_run(*run) for _ in range(_TURNS)] for run in runs], sys.stdout)
