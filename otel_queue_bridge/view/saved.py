"""Saved runs: a line of OTLP JSON for each request, as the Collector's file exporter writes."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

from otel_queue_bridge.otlp import to_otlp_json
from otel_queue_bridge.otlp.requests import JSON, BadRequest, decode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from typing_extensions import Self

    from otel_queue_bridge.otlp.requests import Request

_PATHS = {
    "resourceSpans": "/v1/traces",
    "resourceMetrics": "/v1/metrics",
    "resourceLogs": "/v1/logs",
}


class Saver:
    """Adds requests to a file, from any thread. OSError if it cannot be written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._writing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._writing:
            self._file.close()

    def save(self, request: Request) -> None:
        line = to_otlp_json(request, indent=None)
        with self._writing:
            if not self._file.closed:
                self._file.write(f"{line}\n")
                self._file.flush()


def load(path: Path) -> Iterator[Request]:
    """Yield the requests of a file; ValueError names the line that is not OTLP JSON.

    A file that is one document on several lines, such as one trace of the JSON API, is taken, too.
    A last line that is cut off is left out.
    """
    text = path.read_text(encoding="utf-8")
    lines = [text] if _is_json(text) else text.split("\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _request(line)
            except ValueError as error:
                if number == len(lines) > 1:
                    return  # whoever wrote it was killed
                raise ValueError(f"line {number}: {error}") from None


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _request(line: str) -> Request:
    try:
        found = json.loads(line)
    except ValueError:
        raise BadRequest("it is not JSON") from None
    kind = next((kind for kind in _PATHS if isinstance(found, dict) and kind in found), None)
    if kind is None:
        raise BadRequest(f"none of {', '.join(_PATHS)}")
    return decode(_PATHS[kind], line.encode(), content_type=JSON)
