"""Traces in a notebook: captured in this process, or read from a running `otel-queue-bridge view`.

    with notebook.capture() as spans:
        checkout()
    spans  # as a cell's last line: the waterfall

    notebook.connect("127.0.0.1:4318").trace(task_id="...")

It needs the packages of the extra `notebook`, and neither IPython nor a widget.
"""

from __future__ import annotations

from importlib.util import find_spec

for _module, _package in (
    ("opentelemetry.proto", "opentelemetry-proto"),
    ("opentelemetry.sdk", "opentelemetry-sdk"),
):
    if find_spec(_module) is None:
        raise ModuleNotFoundError(
            f"otel_queue_bridge.notebook needs the package {_package}:"
            " pip install 'otel-queue-bridge[notebook]'",
            name=_module,
        )

from otel_queue_bridge.notebook.capture import Captured, capture  # noqa: E402 - they need it
from otel_queue_bridge.notebook.remote import View, connect  # noqa: E402
from otel_queue_bridge.notebook.spans import NotebookError, Spans, Table  # noqa: E402

__all__ = ["Captured", "NotebookError", "Spans", "Table", "View", "capture", "connect"]
