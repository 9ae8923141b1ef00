"""A collector over HTTP or gRPC that can be out of order in several ways."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

from otel_queue_bridge.otlp import Receiver
from otel_queue_bridge.otlp.grpc import GrpcServer
from otel_queue_bridge.testing.processes import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from otel_queue_bridge.otlp.requests import Request

HTTP, GRPC = PROTOCOLS = ("http/protobuf", "grpc")
WELL, HANGING, SLOW, FAILING = "well", "hanging", "slow", "failing"
_SLOW = 0.3  # seconds for each request


class Collector:
    def __init__(self, protocol: str) -> None:
        self._mood = WELL
        self._well = threading.Event()
        port = free_port()
        self.endpoint = f"http://127.0.0.1:{port}"
        self.received = Receiver(port=port, respond=self._respond)
        self._server: Receiver | GrpcServer = self.received
        if protocol == GRPC:
            self._server = GrpcServer(self._accept, lambda _: None, port=port)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._well.set()
        self._server.__exit__(*exc_info)

    @contextmanager
    def being(self, mood: str) -> Iterator[None]:
        self._well.clear()
        self._mood = mood
        yield
        self._mood = WELL
        self._well.set()

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Have nobody listen there for a while."""
        self._server.__exit__(None, None, None)
        yield
        self._server.__enter__()

    def _respond(self, _: str) -> int:
        mood = self._mood
        if mood == SLOW:
            time.sleep(_SLOW)
        elif mood == HANGING:
            self._well.wait()
        # Whoever has waited may have gone, and sends it again.
        refused = mood in (HANGING, FAILING)
        return HTTPStatus.INTERNAL_SERVER_ERROR if refused else HTTPStatus.OK

    def _accept(self, request: Request) -> None:
        if self._respond("") != HTTPStatus.OK:
            raise ConnectionAbortedError
        self.received.accept(request)
