"""Ask a running `otel-queue-bridge view` for its traces and queues."""

from __future__ import annotations

import json
import re
import time
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from otel_queue_bridge.notebook.spans import NotebookError, Spans, Table, queue_table, tasks_of
from otel_queue_bridge.otlp import Span, read_spans
from otel_queue_bridge.otlp.requests import JSON, BadRequest, decode

_PORT = 4318
_PATIENCE = 30.0
"""Seconds that an answer may take."""
_LOOK = 0.2
_TRACES = 10
"""The most traces that one task may be part of."""
_LIST = ("name", "service", "duration_s", "spans", "tasks", "errors", "trace_id")


def connect(address: str = f"127.0.0.1:{_PORT}") -> View:
    """Return the view that listens at HOST:PORT; NotebookError if none does."""
    return View(address)


class View:
    """A running `otel-queue-bridge view`: the newest traces as a cell's result."""

    def __init__(self, address: str) -> None:
        self._host, self._port = _parsed(address)
        host = f"[{self._host}]" if ":" in self._host else self._host
        self.address = f"{host}:{self._port}"
        if "rejected" not in self._get("/api/status"):
            raise self._stranger()

    def __repr__(self) -> str:
        return repr(self.traces())

    def _repr_html_(self) -> str:
        return self.traces()._repr_html_()

    def traces(self, limit: int = 20) -> Table:
        """Return the newest traces, newest first."""
        rows = self._rows(limit=limit)
        return Table(_LIST, [{**row, "duration_s": row["duration_ms"] / 1e3} for row in rows])

    def trace(
        self, trace_id: str | None = None, *, task_id: str | None = None, timeout: float = 0.0
    ) -> Spans:
        """Return the trace with this id, or all of this task, or the newest one.

        Up to `timeout` seconds it waits until the trace is there and its tasks have finished.
        NotebookError if there is none.
        """
        if trace_id is not None and task_id is not None:
            raise NotebookError("trace() takes a trace_id or a task_id, not both")
        wanted = trace_id if task_id is None else task_id
        deadline = time.monotonic() + timeout
        while True:
            found = self._find(wanted)
            if (found and not tasks_of(found)[1]) or time.monotonic() >= deadline:
                break
            time.sleep(_LOOK)
        if found:
            return Spans(found)
        what = "no trace" if wanted is None else f"no trace of {wanted!r}"
        raise NotebookError(
            f"{self.address} holds {what} yet: the SDK exports every 5 s (OTEL_BSP_SCHEDULE_DELAY),"
            " and trace(timeout=10) waits for it"
        )

    def queues(self) -> Table:
        """Return what each task of each queue did in the last 15 minutes."""
        return queue_table(self._get("/api/queues")["rows"])

    def _find(self, wanted: str | None) -> list[Span]:
        limit = {"limit": 1} if wanted is None else {"limit": _TRACES, "id": wanted}
        found: list[Span] = []
        for row in self._rows(**limit):
            body = self._ask(f"/api/traces/{quote(row['trace_id'], safe='')}")
            if body is not None:  # it may have been dropped in the meantime
                try:
                    found += read_spans(decode("/v1/traces", body, content_type=JSON))
                except BadRequest:
                    raise self._stranger() from None
        return found

    def _rows(self, **asked: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._get(f"/api/traces?{urlencode(asked)}")["traces"]
        return rows

    def _get(self, path: str) -> dict[str, Any]:
        try:
            found = json.loads(self._ask(path) or b"")
        except ValueError:
            raise self._stranger() from None
        if not isinstance(found, dict):
            raise self._stranger()
        return found

    def _ask(self, path: str) -> bytes | None:
        """Return the body of an answer; None if there is no such thing."""
        try:
            with closing(HTTPConnection(self._host, self._port, timeout=_PATIENCE)) as connection:
                connection.request("GET", path)
                answer = connection.getresponse()
                body = answer.read()
        except HTTPException:
            raise self._stranger() from None
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise NotebookError(
                f"nothing answers at {self.address} ({reason}): start"
                " `otel-queue-bridge view`, or connect() to the address that it prints"
            ) from None
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        if answer.status != HTTPStatus.OK:
            raise self._stranger()
        return body

    def _stranger(self) -> NotebookError:
        return NotebookError(
            f"what listens at {self.address} is no `otel-queue-bridge view`: connect() to the"
            " address that the view prints"
        )


def _parsed(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    else:
        if parts.scheme not in ("", "http") or parts.path not in ("", "/") or "@" in parts.netloc:
            host = None
    if not host or not re.fullmatch(r"[\w.:-]+", host, re.ASCII):
        # It is not repeated, since it may hold a password.
        raise NotebookError(
            f"connect() takes HOST:PORT of a view on this machine, such as 127.0.0.1:{_PORT}"
        )
    return host, _PORT if port is None else port
