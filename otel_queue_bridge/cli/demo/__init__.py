"""`otel-queue-bridge demo`: one web request through every queue, shown as one trace."""

from __future__ import annotations

import os
import socket
from argparse import ArgumentTypeError
from pathlib import Path
from typing import TYPE_CHECKING

from otel_queue_bridge.cli.demo.queues import QUEUES

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

_HIGHEST_PORT = 65535


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--queues",
        type=_queues,
        default=(),
        metavar="NAMES",
        help=f"comma list of {', '.join(QUEUES)} (default: all)",
    )
    parser.add_argument(
        "--html",
        type=_writable,
        default="trace.html",
        metavar="FILE",
        help="where to write the trace as a page (default: %(default)s)",
    )
    parser.add_argument(
        "--json", type=_writable, metavar="FILE", help="write the trace as OTLP JSON, too"
    )
    parser.add_argument(
        "--keep", action="store_true", help="serve the trace, as `view` does, until Ctrl-C"
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=0,
        help="port of the web app on 127.0.0.1 (default: a free one)",
    )
    parser.add_argument(
        "--patience",
        type=_seconds,
        default=180.0,
        metavar="SECONDS",
        help="how long a process may take to become ready (default: %(default)g); the first"
        " run on a slow machine compiles every package",
    )


def run(options: Namespace) -> int:
    """Start everything, send one request, show its trace, stop everything."""
    from otel_queue_bridge.cli.demo import story  # noqa: PLC0415 - the extra has its packages

    return story.run(options)


def _queues(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in QUEUES:
            raise ArgumentTypeError(
                f"{name!r} is no queue of the demo: choose from {', '.join(QUEUES)}"
            )
    return names


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _writable(name: str) -> Path:
    """Check, before the work rather than after it, that the file can be written."""
    path = Path(name)
    if path.is_dir():
        raise ArgumentTypeError(f"{name} is a folder, name a file in it")
    if not path.parent.is_dir():
        raise ArgumentTypeError(f"the folder {path.parent} does not exist, name one that does")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ArgumentTypeError(f"{name} cannot be written, name a file that can")
    return path


def _port(text: str) -> int:
    """Check that the port is free."""
    if not (text.isascii() and text.isdigit() and int(text) <= _HIGHEST_PORT):
        raise ArgumentTypeError(f"{text!r} is not a port, give 0 (any free one) to {_HIGHEST_PORT}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", int(text)))
        except OSError as error:
            raise ArgumentTypeError(
                f"port {text} of 127.0.0.1 cannot be used ({error.strerror}), "
                "name another or leave it out for a free one"
            ) from error
    return int(text)
