"""Arguments that several benchmarks take."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


def add_queues(parser: argparse.ArgumentParser, known: Collection[str]) -> None:
    """Let the user choose some of the queues, separated by commas."""
    everything = tuple(known)
    parser.add_argument(
        "--queues", type=partial(_chosen, everything), default=everything, help=",".join(known)
    )


def _chosen(known: tuple[str, ...], text: str) -> tuple[str, ...]:
    chosen = tuple(text.split(","))
    unknown = set(chosen) - set(known)
    if unknown:
        names = ", ".join(sorted(unknown))
        raise argparse.ArgumentTypeError(f"no such queue: {names}; there are {', '.join(known)}")
    return chosen
