"""Load workers of every queue while things fail, and compare telemetry with what happened.

python -m soak [--queues rq,huey] [--faults collector-hangs,forks|all] [--seed 7] [--minutes 5]

Without a choice, the seed gives each queue one fault. With `--minutes`, further seeds follow until
the time is over.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.arguments import add_queues, chosen
from soak.collector import PROTOCOLS
from soak.faults import FAULTS
from soak.queues import QUEUES
from soak.report import Row, table
from soak.run import Plan, Result, Run
from tests.servers import unignore_signals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def main() -> None:
    options = choices(sys.argv[1:])
    unignore_signals()
    until = time.monotonic() + 60 * options.minutes
    # A pipe has no width that `rich` could use.
    console = Console(width=None if os.isatty(1) else 160)
    rows: list[Row] = []
    for seed in _seeds(options.seed):
        rows += soak(plans(seed, options), options.at_once)
        if time.monotonic() >= until or any(any(row.differences()) for row in rows):
            break
    console.print(table(rows))
    for row in rows:
        _explain(row)
    sys.exit(any(any(row.differences()) for row in rows))


def choices(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m soak", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_queues(parser, QUEUES)
    parser.add_argument(
        "--faults",
        type=lambda text: tuple(FAULTS) if text == "all" else chosen("fault", FAULTS, text),
        help=f"all, or {','.join(FAULTS)}",
    )
    parser.add_argument(
        "--protocol", choices=PROTOCOLS, help="of the export (default: the seed chooses)"
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--minutes", type=float, default=0, help="go on with further seeds")
    parser.add_argument("--tasks", type=int, default=16, help="in each of the three loads of a run")
    parser.add_argument("--at-once", type=int, default=3, help="how many runs share the machine")
    return parser.parse_args(arguments)


def _seeds(first: int) -> Iterator[int]:
    while True:
        yield first
        first += 1


def plans(seed: int, options: argparse.Namespace) -> list[Plan]:
    """Return what to run, the same for the same seed, whatever else is chosen."""
    found = []
    for queue in options.queues:
        chance = random.Random(f"{seed} {queue}")
        possible = [fault for fault in FAULTS if fault not in QUEUES[queue].lacks]
        by_seed = (chance.choice(possible),)
        faults = options.faults or by_seed
        protocol = chance.choice(PROTOCOLS)
        found += [
            Plan(queue, fault, seed, options.tasks, options.protocol or protocol)
            for fault in faults
        ]
    return found


def soak(plans: Sequence[Plan], at_once: int) -> list[Row]:
    """Run these, and the control of each, which several may share."""
    todo = [plan for plan in plans if not _lacks(plan)]
    runs = dict.fromkeys([*(plan.control() for plan in todo), *todo])
    with ThreadPoolExecutor(at_once) as pool:
        results = dict(zip(runs, pool.map(_run, runs), strict=True))
    return [_row(plan, results) for plan in plans]


def _lacks(plan: Plan) -> str:
    return QUEUES[plan.queue].lacks.get(plan.fault, "")


def _run(plan: Plan) -> Result | str:
    """Return what came of it, or how it has failed."""
    began = time.monotonic()
    found = "failed"
    try:
        with tempfile.TemporaryDirectory(prefix="soak-") as name, Run(plan, Path(name)) as run:
            result = run.go()
        found = f"{len(result.difference.lines())} differences"
    except Exception:  # noqa: BLE001 - other runs go on
        return traceback.format_exc()
    else:
        return result
    finally:
        who = f"over {plan.protocol}" if plan.ours else "without us"
        took = f"{time.monotonic() - began:.0f} s"
        print(f"{plan.queue} {plan.fault} {who}: {found}, {took}", file=sys.stderr, flush=True)


def _row(plan: Plan, results: dict[Plan, Result | str]) -> Row:
    if reason := _lacks(plan):
        return Row(plan, skipped=reason)
    result, control = results[plan], results[plan.control()]
    if isinstance(result, str) or isinstance(control, str):
        named = {"with us": result, "without us": control}
        errors = [f"failed {who}: {e}" for who, e in named.items() if isinstance(e, str)]
        return Row(plan, error="\n".join(errors))
    return Row(plan, result, control)


def _explain(row: Row) -> None:
    plan = row.plan
    if row.skipped:
        print(f"{plan.queue} {plan.fault}: skipped: {row.skipped}")
    if found := list(row.differences()):
        print(f"\n{plan.queue} {plan.fault} over {plan.protocol}:", *found, sep="\n  ")
        again = f"--queues {plan.queue} --faults {plan.fault} --protocol {plan.protocol}"
        print(f'Once more: make soak ARGS="{again} --seed {plan.seed} --tasks {plan.number}"')


if __name__ == "__main__":
    main()
