"""Read how many tasks wait at the broker, and in the worker for their ETA."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Reading, Recorder
from otel_queue_bridge.adapters.celery.reading import queue

if TYPE_CHECKING:
    from collections.abc import Iterator

_DELAYED = "celery_delayed"
"""How the queues of native delayed delivery begin (kombu 5.7 `level_name`). Each holds messages
for all queues."""
_LEVELS = 28
_DELAYED_LIMIT = 0.5
"""Seconds after which these are not read: they must not cost us the depth."""


def readings(pool: Any, recorder: Recorder) -> Iterator[Reading]:
    app, began = pool.app, time.monotonic()
    held = _held(pool, app)
    consumed = app.amqp.queues.consume_from
    with app.connection_for_read(transport_options=_impatient(app)) as connection:
        for name in consumed:
            depth, oldest = _ready(connection, name, recorder)
            delayed = None if held is None else held.pop(name, 0)
            yield Reading(depth, name, delayed=delayed, oldest=oldest)
        if any(_is_quorum(one) for one in app.amqp.queues.values()):
            yield Reading(None, _DELAYED, delayed=_delivered_later(connection, began))
    for name, number in (held or {}).items():  # it is consumed no more
        yield Reading(None, name, delayed=number)


def _impatient(app: Any) -> dict[str, Any]:
    return {**app.conf.broker_transport_options, "max_retries": 0}


def _held(pool: Any, app: Any) -> Counter[str] | None:
    """Count by queue what this worker holds for its ETA; None before it consumes."""
    reference = getattr(pool, "otel_consumer", None)
    consumer = reference and reference()
    if consumer is None:
        return None
    # The timer's `queue` would sort them all. In a green pool it is a set of greenlets.
    entries = [waiting.entry for waiting in tuple(consumer.timer.schedule._queue)]  # noqa: SLF001
    requests = [entry.args[0] for entry in entries if entry.args and not entry.canceled]
    held = [one.delivery_info for one in requests if hasattr(type(one), "request_dict")]
    places = Counter((one.get("exchange"), one.get("routing_key")) for one in held)
    counts: Counter[str] = Counter()
    for (exchange, routing_key), number in places.items():
        counts[queue(app, {"exchange": exchange, "routing_key": routing_key})] += number
    return counts


def _ready(connection: Any, name: str, recorder: Recorder) -> tuple[int, float | None]:
    """Return how many messages wait, and the age of the one that is served next in seconds."""
    with connection.channel() as channel:
        if hasattr(channel, "_size"):  # kombu's virtual transports; adds up all priorities
            depth = int(channel._size(name))  # noqa: SLF001
            if not hasattr(channel, "_q_for_pri"):  # it is not Redis, which lets us see a message
                return depth, None
            return depth, _oldest(channel, name, recorder) if depth else 0.0
        try:
            return int(channel.queue_declare(name, passive=True).message_count), None
        except connection.channel_errors:
            return 0, None  # the queue does not exist (yet)


def _oldest(channel: Any, name: str, recorder: Recorder) -> float | None:
    """Return the age of the oldest of those served next at each priority; None if none says."""
    # kombu 5.7 does not prefix this command.
    prefix = getattr(channel, "global_keyprefix", "")
    with channel.conn_or_acquire() as client, client.pipeline(transaction=False) as pipeline:
        for priority in channel.priority_steps:
            pipeline.lindex(f"{prefix}{channel._q_for_pri(name, priority)}", -1)  # noqa: SLF001
        ages = [_age(message, recorder) for message in pipeline.execute() if message]
    return max((age for age in ages if age is not None), default=None)


def _age(message: bytes | str, recorder: Recorder) -> float | None:
    try:
        headers = json.loads(message)["headers"]
        return recorder.age(headers, headers.get("headers"))
    except (AttributeError, KeyError, TypeError, ValueError):  # anybody may have put it there
        return None


def _is_quorum(declared: Any) -> bool:
    return (declared.queue_arguments or {}).get("x-queue-type") == "quorum"


def _delivered_later(connection: Any, began: float) -> int | None:
    """Count what the broker itself delays; None if it does not, or takes long to tell."""
    number = 0
    with connection.channel() as channel:
        for level in range(_LEVELS):
            if time.monotonic() - began > _DELAYED_LIMIT:
                return None
            try:
                declared = channel.queue_declare(f"{_DELAYED}_{level}", passive=True)
            except connection.channel_errors:
                return None
            number += int(declared.message_count)
    return number
