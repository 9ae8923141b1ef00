"""One HTTP server for OTLP, the JSON API, the events and the page, on the loopback interface."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from otel_queue_bridge.otlp import to_otlp_json
from otel_queue_bridge.otlp.http import Connection, LoopbackServer
from otel_queue_bridge.otlp.requests import (
    BadRequest,
    answer_type,
    decode,
    encode,
    read_body,
    refusal,
)
from otel_queue_bridge.view.queues import STEP, WINDOW
from otel_queue_bridge.view.store import texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from otel_queue_bridge.otlp.requests import Request
    from otel_queue_bridge.view.store import Store, Trace

_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
_BURST = 0.25
_STATUS = 1.0
_SILENCE = 15.0
"""Seconds: least between two bursts of rows, between two statuses, and most without a sign."""
_TLS = b"\x16\x03"
"""How a TLS handshake begins."""
_ROWS = 200
_MOST_ROWS = 2_000


class Origin(NamedTuple):
    """What the page says of this server: where it listens, or which file it shows."""

    http: str
    grpc: str | None = None
    grpc_problem: str | None = None
    file: str | None = None


class Server:
    """Serves a store while its `with` block lasts; `port` 0 means any free port.

    `kept` gets each request that was accepted. OSError if the port is taken.
    """

    def __init__(
        self,
        store: Store,
        *,
        port: int = 4318,
        kept: Callable[[Request], None] = lambda _: None,
        file: str | None = None,
    ) -> None:
        self.store = store
        self.closing = threading.Event()
        self._kept = kept
        self._server = _Server(port, self)
        self.port: int = self._server.server_port
        self.origin = Origin(f"http://127.0.0.1:{self.port}", file=file)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="view", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.closing.set()
        with self.store.changed:
            self.store.changed.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def accept(self, request: Request) -> None:
        """Take in a request, whichever way it came."""
        self.store.add(request)
        self._kept(request)

    # What the API says

    def status(self) -> dict[str, Any]:
        store = self.store
        with store.changed:
            keys = store.queues.keys()
            rejected = store.rejected
            return {
                **self.origin._asdict(),
                "now_ms": time.time() * 1e3,
                "spans": store.spans,
                "traces": store.held,
                "limit": store.limit,
                "dropped": {"traces": store.dropped.total(), "services": dict(store.dropped)},
                "points": store.points,
                "logs": store.logs,
                "rejected": {
                    "count": store.refused,
                    "last": rejected
                    and {
                        "time_ms": rejected.time * 1e3,
                        "where": rejected.where,
                        "reason": rejected.reason,
                    },
                },
                "services": store.services(),
                "systems": sorted({key.system for key in keys}),
                "queues": sorted({key.queue for key in keys}),
                "tasks": sorted({key.task for key in keys}),
            }

    def queues(self) -> dict[str, Any]:
        with self.store.changed:
            rows = self.store.queues.table()
            now = self.store.queues.clock() * 1e3
        return {"now_ms": now, "window_s": WINDOW, "step_s": STEP, "rows": rows}


class Filter:
    """Which rows a client asks for; ValueError if a parameter makes no sense."""

    def __init__(self, query: str) -> None:
        asked = parse_qsl(query, max_num_fields=20)
        self._asked = {name: value for name, value in asked if value}
        allowed = f"there are {', '.join(sorted(_FILTERS))}"
        for name in self._asked.keys() - _FILTERS:
            raise ValueError(f"there is no filter {name}; {allowed}")
        if len(asked) > len(dict(asked)):
            raise ValueError(f"a filter may be given only once; {allowed}")
        self.limit = min(self._number("limit", _ROWS), _MOST_ROWS)
        self._least = self._number("min_ms", 0)
        self.after = self._number("after", -1)
        """The sequence that the client has seen, for events."""

    def _number(self, name: str, default: int) -> int:
        text = self._asked.pop(name, "")
        if text and not text.isdecimal():
            raise ValueError(f"{name} has to be a whole number")
        return int(text) if text else default

    def __call__(self, trace: Trace, row: dict[str, Any]) -> bool:
        return row["duration_ms"] >= self._least and all(
            _MATCHES[name](value, trace, row) for name, value in self._asked.items()
        )


def _has_status(status: str, _: Trace, row: dict[str, Any]) -> bool:
    if status == "error":
        return bool(row["errors"])
    return bool(row["pending"]) if status == "pending" else status in row["statuses"]


def _has_id(wanted: str, trace: Trace, _: dict[str, Any]) -> bool:
    ids = {kept.task_id for kept in trace.spans.values()}
    return wanted == trace.trace_id or wanted in ids


def _has_text(text: str, trace: Trace, _: dict[str, Any]) -> bool:
    return any(text.lower() in one.lower() for one in texts(trace))


_MATCHES: dict[str, Callable[[str, Trace, dict[str, Any]], bool]] = {
    "system": lambda value, _, row: value in row["systems"],
    "queue": lambda value, _, row: value in row["queues"],
    "task": lambda value, _, row: value in row["task_names"],
    "service": lambda value, _, row: value in row["services"],
    "status": _has_status,
    "id": _has_id,
    "text": _has_text,
}
_FILTERS = frozenset({*_MATCHES, "after", "limit", "min_ms"})


class _Server(LoopbackServer):
    def __init__(self, port: int, view: Server) -> None:
        self.view = view
        super().__init__(port, _Connection)


class _Connection(Connection):
    server: _Server

    def do_POST(self) -> None:  # noqa: N802 - http.server calls it
        path = urlsplit(self.path).path
        content_type = self.headers.get("Content-Type", "")
        try:
            if not self._is_for_us():
                return
            encoding = self.headers.get("Content-Encoding", "identity")
            body = read_body(self.rfile, self.headers)
            request = decode(path, body, content_type=content_type, encoding=encoding)
        except BadRequest as error:
            self.server.view.store.reject(f"{path}: {error}")
            self.close_connection = True  # what follows may be the rest of a body
            answer = refusal(str(error), content_type)
            self._send(HTTPStatus.BAD_REQUEST, answer, answer_type(content_type))
            return
        try:
            self.server.view.accept(request)
        except Exception as error:  # noqa: BLE001 - anybody may send anything
            self.server.view.store.reject(f"{path}: {type(error).__name__} while it was taken in")
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, b"", answer_type(content_type))
            return
        self._send(HTTPStatus.OK, encode(path, content_type), answer_type(content_type))

    def do_GET(self) -> None:  # noqa: N802 - likewise
        if not self._is_for_us():
            return
        view = self.server.view
        path, query = urlsplit(self.path).path, urlsplit(self.path).query
        if path == "/api/status":
            self._send_json(view.status())
        elif path == "/api/queues":
            self._send_json(view.queues())
        elif path in ("/api/traces", "/api/events"):
            try:
                wanted = Filter(query)
            except ValueError as error:
                self._send_json({"error": str(error)}, HTTPStatus.BAD_REQUEST)
                return
            if path == "/api/events":
                self._send_events(wanted)
            else:
                rows, sequence = view.store.rows(wanted, limit=wanted.limit)
                self._send_json({"traces": rows, "sequence": sequence})
        elif path.startswith("/api/traces/"):
            self._send_trace(path.removeprefix("/api/traces/"))
        else:
            self._send_file(path.removeprefix("/") or "index.html")

    def _is_for_us(self) -> bool:
        """Refuse what a foreign page sends here by a name that it has made to lead to us."""
        host = self.headers.get("Host", "")
        if host.rpartition(":")[0] in _HOSTS or host in _HOSTS:
            return True
        self.server.view.store.reject(f"{urlsplit(self.path).path}: the Host header is foreign")
        self.close_connection = True
        self._send(HTTPStatus.FORBIDDEN, b"ask 127.0.0.1 or localhost\n", "text/plain")
        return False

    def _send_trace(self, asked: str) -> None:
        trace_id, _, more = asked.partition("/")
        store = self.server.view.store
        if more == "context":
            context = store.context(trace_id)
            if context is not None:
                self._send_json(context)
                return
        elif not more:
            request = store.request(trace_id)
            if request is not None:
                body = to_otlp_json(request, indent=None).encode()
                self._send(HTTPStatus.OK, body, "application/json")
                return
        self._send_json({"error": f"no trace {trace_id} is held"}, HTTPStatus.NOT_FOUND)

    def _send_events(self, wanted: Filter) -> None:
        """Send what changes from now on, or since the event that the client had last."""
        view = self.server.view
        last = self.headers.get("Last-Event-ID", "")
        sequence = int(last) if last.isdecimal() else wanted.after
        if sequence < 0:
            sequence = view.store.sequence
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", "default-src 'self'")
        self.end_headers()
        said: dict[str, Any] = {}
        at = heard = 0.0
        with suppress(OSError):
            while not view.closing.is_set():
                now = time.monotonic()
                rows, sequence = view.store.rows_since(sequence, wanted)
                events = [_event("trace", row, row["sequence"]) for row in rows]
                if now - at >= _STATUS:
                    at, status = now, view.status()
                    news = {name: value for name, value in status.items() if name != "now_ms"}
                    if news != said:
                        said = news
                        events.append(_event("status", status, sequence))
                if now - heard >= _SILENCE and not events:
                    events.append(b": here\n\n")
                if events:
                    heard = now
                    self.wfile.write(b"".join(events))
                view.closing.wait(_BURST)
                with view.store.changed:
                    view.store.changed.wait_for(
                        lambda: view.closing.is_set() or view.store.sequence > sequence,  # noqa: B023
                        _STATUS,
                    )

    def _send_file(self, name: str) -> None:
        kind = _TYPES.get(f".{name.rpartition('.')[2]}")
        page = files("otel_queue_bridge.view") / "page" / name
        if "/" in name or kind is None or not page.is_file():
            self._send(HTTPStatus.NOT_FOUND, b"there is no such page\n", "text/plain")
        else:
            self._send(HTTPStatus.OK, page.read_bytes(), f"{kind}; charset=utf-8")

    def _send_json(self, found: object, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(status, _json(found).encode(), "application/json")

    def _send(self, status: HTTPStatus, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", "default-src 'self'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_error(self, format: str, *args: object) -> None:  # noqa: A002 - the overridden name
        first = getattr(self, "raw_requestline", b"")
        if first.startswith(b"PRI "):
            reason = "the client speaks gRPC, which uses another port, usually 4317"
        elif first.startswith(_TLS):
            reason = "the client speaks TLS; the endpoint has to begin with http://"
        else:
            reason = f"what arrived was refused: {args[0] if args else format}"
        self.server.view.store.reject(f"HTTP: {reason}")


def _event(kind: str, data: object, sequence: int) -> bytes:
    return f"event: {kind}\nid: {sequence}\ndata: {_json(data)}\n\n".encode()


def _json(found: object) -> str:
    """Write what every reader of JSON understands: it has no NaN, which attributes may hold."""
    try:
        return json.dumps(found, allow_nan=False)
    except ValueError:
        return json.dumps(json.loads(json.dumps(found), parse_constant=lambda _: None))
