"""The console script `otel-queue-bridge`.

Each command is a module of the same name with `arguments(parser)` and `run(options) -> int`. It
is imported when the command is asked for, and imports what an extra brings only in `run`.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from otel_queue_bridge.cli.masking import masked

if TYPE_CHECKING:
    from collections.abc import Sequence


_PACKAGE = "otel-queue-bridge"


class Command(NamedTuple):
    purpose: str
    extra: str
    """The extra with the packages that it needs; empty if it needs none."""


COMMANDS = {
    "demo": Command("send one web request through every queue and show its trace", "demo"),
    "view": Command("receive your own traces and show them in the browser", "view"),
    "doctor": Command("find out why traces or metrics are missing, and what to do", ""),
    "dashboards": Command("write Grafana dashboards and Prometheus alerts", ""),
}


class CommandError(Exception):
    """Ends a command with exit code 1; the message says in one sentence what went wrong."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {masked(message)}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 could not start."""
    purposes = "\n".join(f"  {name:12}{command.purpose}" for name, command in COMMANDS.items())
    parser = _Parser(
        prog="otel-queue-bridge",
        description="One trace from the web handler through the task queue into the task.",
        epilog=f"commands:\n{purposes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version(_PACKAGE)}")
    parser.add_argument("command", nargs="?", choices=COMMANDS, help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parser.usage = "%(prog)s COMMAND [--help] ..."
    chosen = parser.parse_args(argv)
    if chosen.command is None:
        parser.print_help()
        return 0
    command = COMMANDS[chosen.command]
    parser = _Parser(prog=f"{parser.prog} {chosen.command}", description=command.purpose)
    try:
        module = import_module(f"{__name__}.{chosen.command}")
        module.arguments(parser)
        return int(module.run(parser.parse_args(chosen.arguments)))
    except ModuleNotFoundError as missing:
        if (missing.name or __package__).startswith("otel_queue_bridge"):
            raise
        return _fail(
            f"{parser.prog} needs the package {missing.name}: "
            f"pip install 'otel-queue-bridge[{command.extra}]'",
            code=2,
        )
    except CommandError as error:
        return _fail(f"{parser.prog}: {error}", code=1)
    except KeyboardInterrupt:
        return 130


def _fail(sentence: str, code: int) -> int:
    sys.stderr.write(f"{sentence}\n")
    return code
