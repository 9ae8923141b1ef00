"""How much we may cost: multiples of the floor, or, without an SDK, thousands of instructions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.cells import MODES, PATHS, Cell, nothing

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_RECORDING = {
    "celery": {"submit": 1.05, "work": 1.05},
    "dramatiq": {"submit": 1.15, "work": 1.05},
    "rq": {"submit": 1.3, "work": 1.15},
    "fastworker": {"submit": 1.2, "work": 1.1},
}
_SAMPLED_OUT = {
    queue: {"submit": 1.1 if queue == "celery" else 1.3, "work": 1.0} for queue in _RECORDING
}
_RATIOS = {"recording": _RECORDING, "sampled out": _SAMPLED_OUT}
_WITHOUT_SDK = {
    queue: {"submit": 40 if queue == "fastworker" else 10, "work": 30} for queue in _RECORDING
}


def goal(queue: str, path: str, mode: str) -> str:
    """Say what this may cost at most."""
    if mode in _RATIOS:
        return f"{_RATIOS[mode][queue][path]:.2f}"
    return f"{_WITHOUT_SDK[queue][path]} k"


def too_dear(amounts: Mapping[Cell, float], queues: Iterable[str]) -> list[str]:
    """Say which goals are missed, given thousands of instructions."""
    missed = []
    for queue in queues:
        for path in PATHS:
            plain = amounts[nothing(queue, path)]
            for mode in MODES:
                ours = amounts[Cell(queue, path, mode, "ours")] - plain
                if mode in _RATIOS:
                    ours /= amounts[Cell(queue, path, mode, "floor")] - plain
                    most = _RATIOS[mode][queue][path]
                else:
                    most = _WITHOUT_SDK[queue][path]
                if ours > most:
                    missed.append(f"{queue}, {path}, {mode}: {ours:.2f} is more than {most}")
    return missed
