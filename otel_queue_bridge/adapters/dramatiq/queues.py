"""Read how many messages wait, and for what.

A broker's class may say so itself, by `otel_queue_depths`: see docs/dramatiq.md.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Reading, asking_redis
from otel_queue_bridge.adapters.dramatiq.brokers import kind_of
from otel_queue_bridge.adapters.dramatiq.reading import CARRIER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_queue_bridge.adapter import Recorder


def readings(worker: Any, recorder: Recorder) -> Iterator[Reading]:
    names = [name for name in tuple(worker.consumers) if not name.endswith(".DQ")]
    if hasattr(type(worker.broker), "otel_queue_depths"):
        return _own(worker.broker, names)
    read = {"RedisBroker": _redis, "RabbitmqBroker": _rabbitmq, "StubBroker": _stub}.get(
        kind_of(worker.broker)
    )
    return iter(()) if read is None else read(worker, names, recorder)


def _own(broker: Any, names: list[str]) -> Iterator[Reading]:
    for name, found in broker.otel_queue_depths(names).items():
        known: dict[str, Any] = dict(found if isinstance(found, Mapping) else {"ready": found})
        delayed, dead, oldest = (known.get(state) for state in ("delayed", "dead", "oldest"))
        yield Reading(known.get("ready"), str(name), delayed=delayed, dead=dead, oldest=oldest)


def _redis(worker: Any, names: list[str], recorder: Recorder) -> Iterator[Reading]:
    keys = [f"{worker.broker.namespace}:{name}" for name in names]
    with asking_redis(worker.broker.client) as ask:
        found = iter(ask([command for key in keys for command in _commands(key)]))
        counts = [(next(found), next(found), next(found)) for _ in keys]
        heads = ask([("LINDEX", key, 0) for key in keys])  # served next
        first = ask(
            [("HGET", f"{key}.msgs", head or "") for key, head in zip(keys, heads, strict=True)]
        )
    for name, count, head, message in zip(names, counts, heads, first, strict=True):
        ready, delayed, dead = count
        oldest = 0.0 if head is None else _age(message, recorder)
        yield Reading(ready, name, delayed=delayed, dead=dead, oldest=oldest)


def _commands(key: str) -> tuple[tuple[str, str], ...]:
    # The second one counts also what workers hold.
    return ("LLEN", key), ("HLEN", f"{key}.DQ.msgs"), ("ZCARD", f"{key}.XQ")


def _rabbitmq(worker: Any, names: list[str], _: Recorder) -> Iterator[Reading]:
    pika = sys.modules["pika"]  # imported by Dramatiq, whose own connections belong to its threads
    connection = pika.BlockingConnection(parameters=worker.broker.parameters)

    def count(queue: str) -> int:
        channel = connection.channel()  # the server closes it if the queue does not exist
        try:
            declared = channel.queue_declare(queue=queue, passive=True)
        except pika.exceptions.ChannelClosedByBroker:
            return 0
        channel.close()
        return int(declared.method.message_count)

    try:
        for name in names:
            # The server does not count what it has delivered.
            delayed = count(f"{name}.DQ") + _held(worker, name)
            yield Reading(count(name), name, delayed=delayed, dead=count(f"{name}.XQ"))
    finally:
        connection.close()


def _stub(worker: Any, names: list[str], recorder: Recorder) -> Iterator[Reading]:
    broker = worker.broker
    for name in names:
        waiting = list(broker.queues[name].queue)
        yield Reading(
            len(waiting),
            name,
            delayed=broker.queues[f"{name}.DQ"].qsize() + _held(worker, name),
            # Only asked for, a key that is missing would be made: it is a `defaultdict`.
            dead=len(broker.dead_letters_by_queue.get(name, ())),
            oldest=_age(waiting[0], recorder) if waiting else 0.0,
        )


def _held(worker: Any, name: str) -> int:
    """Count what this worker holds until its ETA."""
    consumer = worker.consumers.get(f"{name}.DQ")
    return 0 if consumer is None else int(consumer.delay_queue.qsize())


def _age(encoded: Any, recorder: Recorder) -> float | None:
    """Return the age of a message in seconds; None if it has no time stamp."""
    try:
        message = json.loads(encoded)
        carrier = message["options"].get(CARRIER)
        if carrier is not None:
            return recorder.age(carrier)
        # Written by a sender without us: the time of the first attempt, before any delay.
        return max(0.0, time.time() - float(message["message_timestamp"]) / 1000)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None  # the user's own encoder wrote it, or it is gone
