"""A user's web app, each of whose requests submits one task."""

import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from opentelemetry import metrics, trace
from redis import Redis
from rq import Queue

import otel_queue_bridge
from tests.brokers.sdk import set_up


def do(moment: str) -> None:
    """Set up here, if the test wants it at this moment."""
    if os.environ.get("APP_SETUP") == moment:
        set_up()
        otel_queue_bridge.instrument("rq")


def post_fork(_: object, __: object) -> None:
    """Do what gunicorn's configuration asks of a worker."""
    do("post_fork")


def submit() -> bytes:
    with Redis.from_url(os.environ["APP_BROKER"]) as connection:
        Queue(connection=connection).enqueue("app.task")
    return str(os.getpid()).encode()


def wsgi(_: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    answer = submit()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]


async def asgi(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        # As the README has it: the signal that stops uvicorn also ends its process.
        trace.get_tracer_provider().force_flush()
        metrics.get_meter_provider().force_flush()
        await send({"type": "lifespan.shutdown.complete"})
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": submit()})


do("import")
