"""NNG traffic on behalf of a task: a request to a control plane or subworker, and its reply.

Clients and control planes open a `ReqRepPattern` for each attempt to send. The same class also
serves discovery, heartbeats and queries for results. We record only requests inside `carrying`.
"""

from __future__ import annotations

import sys
from asyncio import CancelledError
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from otel_queue_bridge.adapter import (
    ATTEMPT,
    CANCELLED,
    SUCCESS,
    Call,
    Exchange,
    Operation,
    Outcome,
    Recorder,
    failed,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence

    from opentelemetry.util.types import AttributeValue

_SPAN = "nng.req_reply"


class Traffic:
    """The requests for one task, or for a batch, until one is answered or the client gives up."""

    def __init__(
        self,
        carriers: Sequence[object],
        task_id: str | None = None,
        handing_over: Operation | None = None,
        subworker: str | None = None,
    ) -> None:
        self.task_id = task_id
        self.subworker = subworker
        self.attempt = 0
        self.sent = False
        self.answered = False
        self.failure: Outcome | None = None
        """Why the last attempt had no answer, or one that belongs to another task."""
        self._carriers = carriers
        self._written: list[dict[str, Any]] = []
        self._handing_over = handing_over
        self._exchange: Exchange | None = None
        self._around = id(sys.exc_info()[1])
        """Identifies an exception that the caller is already handling: it does not concern us."""

    def open(self, address: str, recorder: Recorder) -> None:
        self.attempt += 1
        self._mark()
        self.failure = None
        host, port = server(address)
        known = {
            "server.address": host,
            "server.port": port,
            "fastworker.nng.attempt": self.attempt,
        }
        attributes = {name: value for name, value in known.items() if value is not None}
        self._exchange = recorder.exchange(_SPAN, self._carriers, attributes)

    def write(self, carrier: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy to send; a batch is dumped once, and each attempt sends the same copy."""
        written = dict(carrier)
        self._written.append(written)
        self._mark()
        return written

    def _mark(self) -> None:
        if self.attempt > 1:
            for written in self._written:
                written[ATTEMPT] = str(self.attempt)

    def note(self, attribute: str, value: AttributeValue) -> None:
        if self._exchange is not None:
            self._exchange.note(attribute, value)

    def hand_over(self) -> None:
        self.sent = True
        if self._handing_over is not None:
            self._handing_over.end()

    def close(self, failure: Outcome | None = None) -> None:
        if self._exchange is not None:
            self._exchange.close(failure or SUCCESS)
            self._exchange, self.failure = None, failure

    def give_up(self) -> None:
        """Close an attempt; if an exception is the reason, it is being raised right now."""
        error = sys.exc_info()[1]
        self.close(None if error is None or id(error) == self._around else failed(error))

    def cancel(self) -> None:
        self.close(failed(CancelledError()))
        if self._handing_over is not None and not self.sent:
            self._handing_over.settle(CANCELLED)
            self._handing_over.end()


current: ContextVar[Traffic | None] = ContextVar("otel_queue_bridge.fastworker", default=None)


@contextmanager
def carrying(traffic: Traffic) -> Iterator[None]:
    token = current.set(traffic)
    try:
        yield
    finally:
        current.reset(token)


def _of(call: Call) -> Traffic | None:
    # A control plane answers its clients with the same class.
    return None if call.instance.is_server else current.get()


def start(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    traffic = _of(call)
    if traffic is None:
        return
    traffic.open(call.instance.address, recorder)
    yield
    if call.error is not None:
        traffic.close(failed(call.error))


def send(call: Call, _: Recorder) -> Generator[None, None, None]:
    traffic = _of(call)
    if traffic is None:
        return
    traffic.note("fastworker.nng.request.size", len(call.argument(0, "data")))
    yield
    if call.error is None:
        traffic.hand_over()


def receive(call: Call, _: Recorder) -> Generator[None, None, None]:
    traffic = _of(call)
    if traffic is None:
        return
    yield
    if call.error is None:
        traffic.answered = True
        traffic.note("fastworker.nng.reply.size", len(call.result))
    elif not isinstance(call.error, CancelledError):  # a time limit cancels: see `give_up`
        traffic.close(failed(call.error))


def close(call: Call, _: Recorder) -> None:
    traffic = _of(call)
    if traffic is not None:
        traffic.give_up()


@lru_cache(100)  # to parse an address takes as long as all else that is done for a request
def server(address: str) -> tuple[str | None, int | None]:
    """Parse an address like `tcp://127.0.0.1:5555`; one of another kind has no host."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return None, None
    return parts.hostname, port
