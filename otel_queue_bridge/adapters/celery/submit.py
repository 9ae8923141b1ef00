"""Submit: every publish of a task.

`AMQP._create_task_sender` makes the one function that delay, apply_async, send_task, canvas,
retries, callbacks and beat all call; each app's AMQP caches its own (Celery 5.7).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import Arguments, Call, Recorder, Task
from otel_queue_bridge.adapters.celery import beat
from otel_queue_bridge.adapters.celery.reading import attributes, epoch, queue, server, transport

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable
    from types import ModuleType

_HEADERS_POSITION = 13
"""The position of `headers` among the arguments of a task sender."""


def submit(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    if len(call.args) > _HEADERS_POSITION:
        return
    amqp, name = call.instance, call.argument(1, "name")
    headers, properties, body, _ = call.argument(2, "message")
    facts = body if isinstance(body, dict) else headers  # message protocol 1 or 2
    # On a retry these are the headers of the failed attempt, including its trace. Passed as the
    # keyword, they override those of the message in both protocols.
    carrier = dict(call.kwargs.get("headers") or {})
    task = Task(
        name,
        _destination(amqp, call),
        id=facts.get("id"),
        carrier=carrier,
        attempt=(facts.get("retries") or 0) + 1,
        priority=call.kwargs.get("priority"),
        eta=epoch(facts.get("eta"), amqp.app),
        server=server(amqp.app),
        transport=transport(amqp.app),
        schedule=beat.entry.get(),
        attributes=attributes({**facts, "reply_to": properties.get("reply_to")}),
        arguments=lambda: _published_arguments(amqp.app, name, body),
    )
    with recorder.submit(task) as operation:
        call.kwargs = {**call.kwargs, "headers": carrier}
        yield
        operation.settle_by(call)


def submit_eager(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    task = call.instance
    default = str(task.app.conf.task_default_queue)
    submitted = Task(
        task.name,
        default,
        attempt=(call.kwargs.get("retries") or 0) + 1,
        schedule=beat.entry.get(),
        arguments=lambda: Arguments(
            task.run, call.argument(0, "args") or (), call.argument(1, "kwargs") or {}
        ),
    )
    with recorder.submit(submitted) as operation:
        token = beat.entry.set(None)  # what it submits is not in the schedule
        yield
        beat.entry.reset(token)
        if call.result is not None:
            operation.identify(call.result.id)


def cached_senders(state: ModuleType) -> Iterable[tuple[object, str]]:
    for app in state._get_active_apps():  # noqa: SLF001 - there is no public list of apps
        amqp = vars(app).get("amqp")
        if amqp is not None and "send_task_message" in vars(amqp):
            yield amqp, "send_task_message"


def _destination(amqp: Any, call: Call) -> str:
    chosen, exchange = call.argument(5, "queue"), call.argument(3, "exchange")
    routing_key = call.argument(4, "routing_key")
    if chosen is not None and not (exchange and routing_key):  # both together win over a queue
        return str(getattr(chosen, "name", chosen))
    if exchange is None:
        return str(amqp.app.conf.task_default_queue)
    name = getattr(exchange, "name", exchange)
    return queue(amqp.app, {"exchange": name, "routing_key": routing_key})


def _published_arguments(app: Any, name: str, body: Any) -> Arguments:
    args, kwargs = (body["args"], body["kwargs"]) if isinstance(body, dict) else body[:2]
    task = app.tasks.get(name)
    return Arguments(task and task.run, args, kwargs)
