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
        "--queues", type=partial(chosen, "queue", known), default=everything, help=",".join(known)
    )


def chosen(kind: str, known: Collection[str], text: str) -> tuple[str, ...]:
    """Return what the user has named, separated by commas."""
    found = tuple(text.split(","))
    unknown = set(found) - set(known)
    if unknown:
        names = ", ".join(sorted(unknown))
        raise argparse.ArgumentTypeError(f"no such {kind}: {names}; there are {', '.join(known)}")
    return found
