"""CPU time: every cell has its own process, all take turns, and the minimum of the turns counts."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

from benchmarks.cells import Cell, Runner

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

# All imports are done, so that a fork starts fast; each process starts its own SDK threads.
_fork = multiprocessing.get_context("fork")


def measure(chosen: Sequence[Cell], rounds: int, tasks: int) -> dict[Cell, float]:
    """Return µs per task."""
    connections: dict[Cell, Connection] = {}
    for cell in chosen:
        ours, theirs = _fork.Pipe()
        _fork.Process(target=_serve, args=(cell, theirs), daemon=True).start()
        connections[cell] = ours
    taken: dict[Cell, list[float]] = {cell: [] for cell in chosen}
    for _ in range(rounds):
        for cell, connection in connections.items():
            connection.send(tasks)
            taken[cell].append(connection.recv())
    return {cell: min(times) for cell, times in taken.items()}


def _serve(cell: Cell, connection: Connection) -> None:
    runner = Runner(cell)
    while True:
        connection.send(runner.timed(connection.recv()))
