"""An HTTP server on the loopback interface that ends all its connections when it closes."""

from __future__ import annotations

import socket
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from weakref import WeakSet


class LoopbackServer(ThreadingHTTPServer):
    """Serves each connection in a thread; `server_close` waits for all of them to end."""

    # Closing joins the threads: none may outlive the server's `with` block.
    daemon_threads = False
    request_queue_size = 128

    def __init__(self, port: int, connection: type[Connection]) -> None:
        self.connections: WeakSet[socket.socket] = WeakSet()
        super().__init__(("127.0.0.1", port), connection)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def server_close(self) -> None:
        # Clients keep idle connections open; without this their threads would never end.
        for connection in tuple(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: clients may go away at any time."""


class Connection(BaseHTTPRequestHandler):
    """One connection, which may carry several requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_request(self, code: object = "", size: object = "") -> None:
        """Print nothing: the terminal belongs to the user."""
