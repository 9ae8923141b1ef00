"""Read Dramatiq's messages: which actor is called, which attempt it is, where the carrier is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Arguments, Task
from otel_queue_bridge.adapters.dramatiq.brokers import server, transport

if TYPE_CHECKING:
    from collections.abc import Mapping

CARRIER = "otel"
"""The key of the carrier among a message's options."""
DELAYED = "otel-delayed"
"""Set in the carrier while a worker holds the message until its ETA."""
_HIDDEN = "otel_carrier"
"""The attribute of a received message that holds its carrier."""
_MANY = 1 << 31


def bare(message: Any) -> Any:
    """Return the message that a proxy stands for: to ask the proxy takes ten times as long."""
    return getattr(message, "_message", message)


def task_of(broker: Any, message: Any) -> Task:
    message = bare(message)
    options, actor = message.options, getattr(broker, "actors", {}).get(message.actor_name)
    retries = _number(options.get("retries", 0))
    priority = _number(options.get("broker_priority"))
    if priority is None and actor is not None:
        priority = _number(actor.priority) or None  # it is 0 unless the user chose one
    return Task(
        message.actor_name,
        message.queue_name.removesuffix(".DQ"),
        id=str(message.message_id),
        carrier=dict(carrier(message)),
        other_carriers=_others(options),
        attempt=None if retries is None or retries < 0 else retries + 1,
        priority=priority,
        server=server(broker),
        transport=transport(broker),
        arguments=lambda: _arguments(broker, message),
    )


def _number(value: object) -> int | None:
    """Return the value if it is a usable number: anybody may have sent it, and OTLP has 64 bits."""
    return value if type(value) is int and abs(value) < _MANY else None


def carrier(message: Any) -> Mapping[str, Any]:
    message = bare(message)
    found = message.options.get(CARRIER)
    if not isinstance(found, dict):
        found = getattr(message, _HIDDEN, None)
    return found if isinstance(found, dict) else {}


def hide(message: Any) -> None:
    """Keep the carrier of a received message beside its options: they are the sender's again."""
    message = bare(message)
    if isinstance(message.options.get(CARRIER), dict):
        # A `Message` is frozen since Dramatiq 2.0, in its fields.
        object.__setattr__(message, _HIDDEN, message.options.pop(CARRIER))


def show(message: Any) -> None:
    """Put the carrier back into the options, for a broker that encodes the message anew."""
    message = bare(message)
    hidden = getattr(message, _HIDDEN, None)
    if hidden is not None:
        message.options.setdefault(CARRIER, hidden)


def _others(options: Any) -> tuple[object, ...]:
    """Return the places where other tracers put the trace."""
    others = options.get("options")
    return (
        options.get("trace_ctx"),
        others.get("trace_context") if isinstance(others, dict) else None,
        options,
    )


def _arguments(broker: Any, message: Any) -> Arguments:
    actor = broker.actors.get(message.actor_name)
    return Arguments(actor and actor.fn, message.args, message.kwargs)
