"""`otel-queue-bridge view`: receive traces, metrics and logs, and show them in the browser."""

from __future__ import annotations

import errno
import json
import signal
import sys
import webbrowser
from contextlib import ExitStack, closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from otel_queue_bridge.cli import CommandError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable

    from otel_queue_bridge.otlp.requests import Request
    from otel_queue_bridge.view import Saver, Server, Store

HTTP, GRPC = 4318, 4317
_HIGH = 50_000


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", nargs="?", type=Path, help="show this file, which --save has written"
    )
    parser.add_argument(
        "--port", type=_port, default=HTTP, help=f"for the page and OTLP over HTTP ({HTTP})"
    )
    parser.add_argument(
        "--grpc-port", type=_port, default=GRPC, help=f"for OTLP over gRPC ({GRPC})"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="add all that arrives to this file"
    )
    parser.add_argument(
        "--terminal", action="store_true", help="show the traces in the terminal, too"
    )


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 1 << 16:
        raise ValueError
    return port


_port.__name__ = "port (0 to 65535, 0 for any)"  # argparse shows it


def run(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from otel_queue_bridge.view import Queues, Saver, Server, Store, load  # noqa: PLC0415 - an extra

    if options.file and options.save:
        raise CommandError("a file is shown or saved, not both: leave out one of them")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        if options.file:
            store = Store(Queues(clock=lambda: store.newest))
            _fill(store, load(options.file), options.file)
        else:
            store = Store(Queues())
        kept = {"kept": _saver(Saver, options.save, stack)} if options.save else {}
        shown = str(options.file) if options.file else None
        try:
            server = stack.enter_context(Server(store, port=options.port, file=shown, **kept))
        except OSError as error:
            raise CommandError(_taken(options.port, "--port", error)) from None
        if not options.file:
            _listen_for_grpc(server, options.grpc_port, stack)
        _say(server, opened=options.open)
        if options.terminal:
            from otel_queue_bridge.cli.live import show  # noqa: PLC0415 - likewise

            show(store)
        else:
            with suppress(KeyboardInterrupt):
                signal.pause()
    return 0


def _fill(store: Store, requests: Iterable[Request], path: Path) -> None:
    try:
        for request in requests:
            store.add(request)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise CommandError(f"{path} does not hold lines of OTLP JSON: {error}") from None


def _saver(
    saver: Callable[[Path], Saver], path: Path, stack: ExitStack
) -> Callable[[Request], None]:
    try:
        return stack.enter_context(saver(path)).save
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None


def _listen_for_grpc(server: Server, port: int, stack: ExitStack) -> None:
    try:
        from otel_queue_bridge.otlp.grpc import GrpcServer  # noqa: PLC0415 - it needs h2
    except ModuleNotFoundError as missing:
        cure = f"pip install 'otel-queue-bridge[view]' brings {missing.name}, which it needs"
        server.origin = server.origin._replace(grpc_problem=f"There is no OTLP over gRPC: {cure}.")
        return
    try:
        grpc = stack.enter_context(GrpcServer(server.accept, server.store.reject, port=port))
    except OSError as error:
        raise CommandError(_taken(port, "--grpc-port", error)) from None
    server.origin = server.origin._replace(grpc=f"http://127.0.0.1:{grpc.port}")


def _say(server: Server, *, opened: bool) -> None:
    http, grpc, problem, file = server.origin
    if file:
        sentences = [f"{file} is shown at {http}"]
    else:
        also = f", and over gRPC at {grpc}" if grpc else ""
        sentences = [f"Open {http} to see your traces: it receives OTLP there{also}."]
    if problem:
        sentences.append(problem)
    if opened and not webbrowser.open(http):
        sentences.append(f"No browser was found: open {http} yourself.")
    sys.stdout.writelines(f"{sentence}\n" for sentence in sentences)
    sys.stdout.flush()


def _taken(port: int, option: str, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"cannot listen on port {port}: {error.strerror}"
    other = port + 10_000 if port < _HIGH else port - 10_000
    return (
        f"port {port} is taken by {_holder(port)}: stop that, or choose another one with"
        f" {option} {other}, and send to it: OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{other}"
    )


def _holder(port: int) -> str:
    """Say what listens on a port, as far as that can be known."""
    with (
        suppress(OSError, HTTPException, ValueError, TypeError),
        closing(HTTPConnection("127.0.0.1", port, timeout=1)) as connection,
    ):
        connection.request("GET", "/api/status")
        if "rejected" in json.loads(connection.getresponse().read()):
            return "another `otel-queue-bridge view`"
    with suppress(OSError):
        listening = {
            f"socket:[{fields[9]}]"
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            if (fields := line.split())[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port
        }
        for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
            with suppress(OSError):
                if str(descriptor.readlink()) in listening:
                    process = descriptor.parent.parent
                    return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return "another program"
