"""OTLP over gRPC on the loopback interface: unary calls over HTTP/2, whose frames `h2` handles."""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from http import HTTPStatus
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from weakref import WeakSet

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from otel_queue_bridge.otlp.requests import (
    GRPC_PATHS,
    LIMIT,
    BadRequest,
    Request,
    TooLarge,
    decode,
    encode,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

_WINDOW = 2**20  # bytes that a client may send ahead of what was accepted
_CALLS = 100  # at once, per connection
_PREFIX = 5  # bytes before a message: whether it is compressed, and its length
_PATIENCE = 5.0  # seconds that a client may leave our answers unread
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class _Code(IntEnum):
    OK = 0
    INVALID_ARGUMENT = 3
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


class GrpcServer:
    """Takes in traces, metrics and logs over gRPC while its `with` block lasts.

    `accept` is called with each request, by the threads of several connections at once. It may be
    slow: its client cannot send much more before it returns. `reject` is called with `<where>:
    <reason>` for each request that is refused. `port` 0 means any free port; entering the block
    raises `OSError` if the port is taken. A request may have `limit` bytes, and so may those
    together that a connection is in the middle of.
    """

    def __init__(
        self,
        accept: Callable[[Request], None],
        reject: Callable[[str], None],
        *,
        port: int = 4317,
        limit: int = LIMIT,
    ) -> None:
        self.port = port
        self._accept = accept
        self._reject = reject
        self._limit = limit

    def __enter__(self) -> Self:
        self._server = _Server(self.port, self._accept, self._reject, self._limit)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128
    # Closing joins the threads: none may outlive the `with` block.
    daemon_threads = False

    def __init__(
        self,
        port: int,
        accept: Callable[[Request], None],
        reject: Callable[[str], None],
        limit: int,
    ) -> None:
        self.accept = accept
        self.reject = reject
        self.limit = limit
        self.closing = False
        self.connections: WeakSet[socket.socket] = WeakSet()
        super().__init__(("127.0.0.1", port), _Connection)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def server_close(self) -> None:
        self.closing = True
        # Wake the threads that wait for their clients; they can still say goodbye.
        for connection in tuple(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        super().server_close()


@dataclass(slots=True)
class _Call:
    """A request in the middle of its arrival."""

    path: str
    encoding: str
    received: bytearray = field(default_factory=bytearray)
    unacknowledged: int = 0

    @property
    def size(self) -> int:
        """How many bytes the message has, as far as known."""
        return int.from_bytes(self.received[1:_PREFIX], "big")

    @property
    def excess(self) -> int:
        """How many bytes arrived after the message; below 0, so many are still missing."""
        return len(self.received) - _PREFIX - self.size

    def decode(self, limit: int) -> Request:
        if self.excess < 0:
            raise _Refusal(_Code.INVALID_ARGUMENT, "the message is cut off")
        compressed = self.received[0] != 0
        if compressed and self.encoding == "identity":
            raise _Refusal(_Code.INTERNAL, "the message is compressed, and no header says how")
        message = bytes(self.received[_PREFIX:])
        encoding = self.encoding if compressed else "identity"
        try:
            return decode(self.path, message, encoding=encoding, limit=limit)
        except TooLarge as error:
            raise _Refusal(_Code.RESOURCE_EXHAUSTED, str(error)) from None
        except BadRequest as error:
            raise _Refusal(_Code.INVALID_ARGUMENT, str(error)) from None


class _Refusal(Exception):  # noqa: N818 - not an error of ours
    def __init__(self, code: _Code, reason: str) -> None:
        self.code = code
        self.reason = reason


class _Connection(BaseRequestHandler):
    server: _Server
    request: socket.socket

    def setup(self) -> None:
        self.request.settimeout(_PATIENCE)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._calls: dict[int, _Call] = {}
        self._unanswered: list[tuple[int, bytes]] = []
        self._ended: set[int] = set()
        self._http = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._http.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW,
                SettingCodes.MAX_CONCURRENT_STREAMS: _CALLS,
                SettingCodes.MAX_HEADER_LIST_SIZE: H2Connection.DEFAULT_MAX_HEADER_LIST_SIZE,
            },
        )

    def handle(self) -> None:
        with suppress(OSError):  # a client may go away at any time
            first = self._receive()
            if stray := _stray(first):
                self.server.reject(f"gRPC: {stray}")
                self._answer_stray(first, stray)
                return
            self._http.initiate_connection()
            self._http.increment_flow_control_window(
                _WINDOW - self._http.inbound_flow_control_window
            )
            self._converse(first)

    def finish(self) -> None:
        # Closing a socket that holds unread data would take our last words back.
        with suppress(OSError):
            self.request.shutdown(socket.SHUT_WR)
            self.request.settimeout(0)
            for _ in range(self.server.limit // _WINDOW + 1):
                if not self.request.recv(_WINDOW):
                    break

    def _receive(self) -> bytes:
        """Return what arrived next; nothing if the client or the server is about to close."""
        while not self.server.closing:
            with suppress(TimeoutError):
                return self.request.recv(2**16)
        return b""

    def _converse(self, data: bytes) -> None:
        while data:
            try:
                events = self._http.receive_data(data)
            except ProtocolError as error:
                self.server.reject(f"gRPC: what arrived is not HTTP/2 ({_name(error.error_code)})")
                self._send()
                return
            self._ended = {
                event.stream_id for event in events if isinstance(event, StreamEnded | StreamReset)
            }
            for event in events:
                if isinstance(event, ConnectionTerminated):
                    return
                self._handle(event)
            self._send()
            data = self._receive()
        self._http.close_connection()
        self._send()

    def _send(self) -> None:
        if data := self._http.data_to_send():
            self.request.sendall(data)

    def _handle(self, event: Event) -> None:
        match event:
            case RequestReceived(stream_id=stream, headers=headers):
                self._begin(stream, {bytes(name): bytes(value) for name, value in headers})
            case DataReceived(stream_id=stream, data=data, flow_controlled_length=length):
                self._add(stream, data, length)
            case StreamEnded(stream_id=stream) if stream in self._calls:
                self._finish(stream)
            case StreamReset(stream_id=stream):
                self._forget(stream)
            case WindowUpdated() | RemoteSettingsChanged():
                self._answer()

    def _begin(self, stream: int, headers: dict[bytes, bytes]) -> None:
        path = headers.get(b":path", b"").decode("latin-1")
        encoding = headers.get(b"grpc-encoding", b"identity").decode("latin-1")
        if not headers.get(b"content-type", b"").startswith(b"application/grpc"):
            self.server.reject("gRPC: what arrived over HTTP/2 is not gRPC")
            status = str(HTTPStatus.UNSUPPORTED_MEDIA_TYPE.value)
            self._stop(stream, [(":status", status)])
        elif path not in GRPC_PATHS:
            self._refuse(stream, path, _Code.UNIMPLEMENTED, "there is no such method")
        elif encoding not in ("identity", "gzip"):
            reason = "the encoding is neither gzip nor identity"
            self._refuse(stream, path, _Code.UNIMPLEMENTED, reason)
        else:
            self._calls[stream] = _Call(path, encoding)

    def _add(self, stream: int, data: bytes, length: int) -> None:
        call = self._calls.get(stream)
        if call is None:  # refused already
            self._http.acknowledge_received_data(length, stream)
            return
        call.received += data
        call.unacknowledged += length
        if call.excess > 0:
            reason = "there is more than one message"
            self._refuse(stream, call.path, _Code.INVALID_ARGUMENT, reason)
        elif sum(each.size for each in self._calls.values()) > self.server.limit:
            reason = f"more than {self.server.limit / 2**20:g} MiB at once"
            self._refuse(stream, call.path, _Code.RESOURCE_EXHAUSTED, reason)
        elif call.excess < 0:  # its rest may need more than the window has
            self._acknowledge(stream, call)

    def _finish(self, stream: int) -> None:
        call = self._calls[stream]
        try:
            request = call.decode(self.server.limit)
        except _Refusal as refusal:
            self._refuse(stream, call.path, refusal.code, refusal.reason)
            return
        try:
            self.server.accept(request)
        except Exception as error:  # noqa: BLE001 - other calls go on, and `reject` says it
            reason = f"it could not be taken in ({type(error).__name__})"
            self._refuse(stream, call.path, _Code.INTERNAL, reason)
            return
        self._forget(stream)
        message = encode(call.path)
        answer = bytes(1) + len(message).to_bytes(_PREFIX - 1, "big") + message
        with suppress(ProtocolError):  # the client has given this call up
            self._http.send_headers(
                stream, [(":status", "200"), ("content-type", "application/grpc")]
            )
            self._unanswered.append((stream, answer))
        self._answer()

    def _answer(self) -> None:
        """Send the answers for which the client's window has room."""
        waiting, self._unanswered = self._unanswered, []
        for stream, answer in waiting:
            with suppress(ProtocolError):
                if self._http.local_flow_control_window(stream) < len(answer):
                    self._unanswered.append((stream, answer))
                    continue
                self._http.send_data(stream, answer)
                status = [("grpc-status", str(_Code.OK.value))]
                self._http.send_headers(stream, status, end_stream=True)
        self._send()

    def _refuse(self, stream: int, path: str, code: _Code, reason: str) -> None:
        self._forget(stream)
        method = re.fullmatch(r"/(?:\w+\.){0,9}(\w{1,60}/\w{1,60})", path, re.ASCII)
        where = f"gRPC {method[1]}" if method else "gRPC"
        self.server.reject(f"{where}: {reason}")
        self._stop(
            stream,
            [
                (":status", "200"),
                ("content-type", "application/grpc"),
                ("grpc-status", str(code.value)),
                ("grpc-message", quote(reason, safe=_PRINTABLE)),
                ("grpc-accept-encoding", "identity,gzip"),
            ],
        )

    def _stop(self, stream: int, headers: list[tuple[str, str]]) -> None:
        with suppress(ProtocolError):
            self._http.send_headers(stream, headers, end_stream=True)
            if stream not in self._ended:  # the rest of the request is of no use
                self._http.reset_stream(stream, ErrorCodes.NO_ERROR)
        self._send()

    def _forget(self, stream: int) -> None:
        if call := self._calls.pop(stream, None):
            self._acknowledge(stream, call)

    def _acknowledge(self, stream: int, call: _Call) -> None:
        self._http.acknowledge_received_data(call.unacknowledged, stream)
        call.unacknowledged = 0

    def _answer_stray(self, first: bytes, reason: str) -> None:
        if not first.startswith(_TLS):
            head = f"HTTP/1.1 400 Bad Request\r\nContent-Length: {len(reason)}\r\n"
            self.request.sendall(f"{head}Connection: close\r\n\r\n{reason}".encode())


_TLS = b"\x16\x03"


def _stray(first: bytes) -> str:
    """Say what a client speaks that took this port for another; nothing if it may be HTTP/2."""
    if first.startswith(_TLS):
        return "the client speaks TLS; the endpoint must begin with http://"
    if re.match(rb"[A-Z]{3,7} /", first):
        return "the client speaks HTTP/1.1; OTLP over HTTP uses another port, usually 4318"
    return ""


def _name(code: int) -> str:
    return code.name if isinstance(code, ErrorCodes) else str(code)
