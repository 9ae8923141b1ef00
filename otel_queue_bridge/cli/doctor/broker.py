"""Check whether the broker can be reached, and compare its clock with ours."""

from __future__ import annotations

import socket
import ssl
import time
from argparse import ArgumentTypeError
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from otel_queue_bridge.cli.doctor.findings import ok, problem, warning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import BufferedReader

    from otel_queue_bridge.cli.doctor.findings import Finding

_PORTS = {"redis": 6379, "rediss": 6379, "amqp": 5672, "amqps": 5671}
_TIME_LIMIT = 1.0
"""Seconds allowed to connect, and for each answer."""
_SKEW = 1.0
"""Seconds by which the clocks may differ."""
_LONGEST_LINE = 1024


class _RefusedError(Exception):
    """The server answers with an error, or not as Redis would."""


def broker_url(text: str) -> SplitResult:
    """Parse the argument; an error does not repeat it, since it may hold a password."""
    try:
        url = urlsplit(text)
        valid = url.scheme in _PORTS and (url.port or 1) > 0
    except ValueError:
        valid = False
    if not valid:
        schemes = " or ".join(f"{scheme}://" for scheme in _PORTS)
        raise ArgumentTypeError(
            f"not a URL SCHEME://HOST:PORT/NAME that begins with {schemes};"
            " before the host there may be USER:PASSWORD@"
        )
    return url


def findings(url: SplitResult | None) -> Iterator[Finding]:
    if url is None:
        yield ok(
            "the clock of the broker was not compared with ours",
            "doctor --broker redis://HOST:PORT",
        )
        return
    host, port = url.hostname or "localhost", url.port or _PORTS[url.scheme]
    place = f"the broker at {host}:{port}"
    try:
        with ExitStack() as opened:
            connection = opened.enter_context(socket.create_connection((host, port), _TIME_LIMIT))
            if url.scheme in {"rediss", "amqps"}:
                connection = opened.enter_context(
                    _tls(url).wrap_socket(connection, server_hostname=host)
                )
            if url.scheme.startswith("amqp"):
                yield ok(f"{place} accepts connections; its clock cannot be read")
                return
            answers = opened.enter_context(connection.makefile("rb"))
            _log_in(connection, answers, url)
            before = time.time()
            seconds, microseconds = _ask(connection, answers, "TIME")
            yield clock(place, before, time.time(), int(seconds) + int(microseconds) / 1e6)
    except OSError as error:
        yield problem(
            f"{place} cannot be reached: {error.strerror or error}",
            "correct host and port, or start it",
        )
    except (_RefusedError, ValueError) as error:
        yield problem(f"{place} answers: {error}", "correct user and password in the URL")


def clock(place: str, before: float, after: float, theirs: float) -> Finding:
    """Compare the broker's time with ours before and after the question."""
    ahead = theirs - (before + after) / 2
    uncertain = (after - before) / 2
    if abs(ahead) - uncertain <= _SKEW:
        return ok(f"the clock of {place} differs by {abs(ahead):.3f} s", ahead=ahead)
    return warning(
        f"the clock of {place} is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} ours: "
        "task.wait is wrong where clocks differ",
        "synchronise the clocks (timedatectl set-ntp true), "
        "and run this on the machines of app and workers",
        ahead=ahead,
    )


def _tls(url: SplitResult) -> ssl.SSLContext:
    context = ssl.create_default_context()
    # Celery and RQ have this option in their URLs.
    if parse_qs(url.query).get("ssl_cert_reqs", [""])[0].lower() in {"none", "cert_none"}:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _log_in(connection: socket.socket, answers: BufferedReader, url: SplitResult) -> None:
    if url.password:
        words = [unquote(word) for word in (url.username, url.password) if word]
        _ask(connection, answers, "AUTH", *words)


def _ask(connection: socket.socket, answers: BufferedReader, *words: str) -> list[bytes]:
    """Send one command to Redis; return the strings of its answer."""
    encoded = [word.encode() for word in words]
    parts = [b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded]
    connection.sendall(b"*%d\r\n%b" % (len(parts), b"".join(parts)))
    first = _line(answers)
    if first.startswith(b"-"):
        raise _RefusedError(first[1:].decode(errors="replace"))
    if first.startswith(b"+"):
        return [first[1:]]
    if first != b"*2":
        raise _RefusedError("this is not Redis")
    return [_line(answers) for _ in range(4)][1::2]  # a line with its length precedes each


def _line(answers: BufferedReader) -> bytes:
    return answers.readline(_LONGEST_LINE).rstrip()
