"""Fixtures for the tests of an app, and the contract that every adapter must fulfil.

docs/testing.md explains the fixtures, `queue_spans` and `queue_collector`; for the contract see
`contract`, `rig` and `tasks`, and docs/adapters.md. Nothing is imported before it is needed.

PYTEST_DONT_REWRITE: our plugin may be imported before a conftest.py asks pytest to rewrite the
contract's assertions, and pytest would warn of that. It rewrites those nevertheless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_queue_bridge.testing.collector import QueueCollector
    from otel_queue_bridge.testing.spans import QueueSpans
else:

    def __getattr__(name: str) -> object:
        if name == "QueueCollector":
            from otel_queue_bridge.testing.collector import QueueCollector

            return QueueCollector
        if name == "QueueSpans":
            from otel_queue_bridge.testing.spans import QueueSpans

            return QueueSpans
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["QueueCollector", "QueueSpans"]
