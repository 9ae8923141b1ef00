"""`otel-queue-bridge dashboards`: write Grafana dashboards and Prometheus rules.

The files beside this module are made by the repository's `make dashboards`.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from otel_queue_bridge import semconv
from otel_queue_bridge.cli import CommandError

if TYPE_CHECKING:
    import argparse

_RUNBOOK = "docs/monitoring.md"
"""How the rules name it: as a file of the repository."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="DIR", required=True, help="write the files into this folder"
    )
    parser.add_argument(
        "--naming",
        choices=semconv.NAMINGS,
        default="task",
        help="the `naming` of your processes: task, system or messaging (task)",
    )
    parser.add_argument(
        "--datasource",
        metavar="UID",
        help="the UID of Grafana's data source that is chosen at first (Grafana's default)",
    )


def run(options: argparse.Namespace) -> int:
    """Write all files of one vocabulary; what has been written before is replaced."""
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        for file in files(__name__).joinpath(options.naming).iterdir():
            path = options.out / f"otel-queue-bridge-{file.name}"
            text = file.read_text(encoding="utf-8")
            board = path.suffix == ".json"
            text = _chosen(text, options.datasource) if board else _linked(text)
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{path}\n")
    except OSError as error:
        raise CommandError(f"cannot write into {options.out}: {error.strerror}") from None
    return 0


def _chosen(board: str, datasource: str | None) -> str:
    if not datasource:
        return board
    made = json.loads(board)
    (variable,) = (one for one in made["templating"]["list"] if one["type"] == "datasource")
    variable["current"] = {"selected": True, "text": datasource, "value": datasource}
    return json.dumps(made, indent=1, sort_keys=True) + "\n"


def _linked(rules: str) -> str:
    """Lead from each alert to the published runbook, once the project has an address."""
    for url in metadata("otel-queue-bridge").get_all("Project-URL") or ():
        name, _, address = url.partition(", ")
        if name == "Documentation":
            return rules.replace(_RUNBOOK, f"{address}/monitoring.md")
    return rules
