"""The worker's pool: the relay for its children, and its gauges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Call, Reading, Recorder

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


def open_pool(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Count for the pool's children, which this call forks, and watch the worker."""
    pool = call.instance
    if pool.uses_semaphore:  # only prefork does
        recorder.relay(pool)
    yield
    recorder.watch_workers(_slots, pool)
    app = pool.app
    recorder.watch_depth(lambda _: _depths(app), pool)


def close_pool(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    yield
    recorder.close(call.instance)


def _slots(pool: Any) -> list[Reading]:
    try:
        return [Reading(pool.num_processes)]
    except AttributeError:  # a prefork pool that has stopped raises it (`TaskPool.on_stop`)
        return [Reading(0)]


def _depths(app: Any) -> Iterable[Reading]:
    with app.connection_for_read(transport_options=_impatient(app)) as connection:
        for name in app.amqp.queues.consume_from:
            yield Reading(_depth(connection, name), queue=name)


def _impatient(app: Any) -> dict[str, Any]:
    return {**app.conf.broker_transport_options, "max_retries": 0}


def _depth(connection: Any, queue: str) -> int:
    with connection.channel() as channel:
        if hasattr(channel, "_size"):  # kombu's virtual transports; adds up all priorities
            return int(channel._size(queue))  # noqa: SLF001
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except connection.channel_errors:
            return 0  # the queue does not exist (yet)
