"""Celery: every publish, the hand-over to the pool, and the run in whichever pool it is.

Names cited here are those of Celery 5.7 and billiard 4.3.
"""

from __future__ import annotations

import inspect
import sys
import time
import weakref
from datetime import datetime
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import (
    CANCELLED,
    IGNORED,
    REJECTED,
    RETRY,
    SUCCESS,
    Adapter,
    Call,
    Hook,
    Outcome,
    Reading,
    Recorder,
    Task,
    failed,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from types import ModuleType

_HEADERS_POSITION = 13
"""Of `headers` among the arguments of a task sender."""

_servers: weakref.WeakKeyDictionary[Any, tuple[str, int | None] | None] = (
    weakref.WeakKeyDictionary()
)


# Submit: `AMQP._create_task_sender` makes the one function behind delay, apply_async,
# send_task, canvas, retries, callbacks and beat; each app's AMQP caches its own.


def submit(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    if len(call.args) > _HEADERS_POSITION:
        return
    amqp, name = call.instance, call.argument(1, "name")
    headers, _, body, _ = call.argument(2, "message")
    facts = body if isinstance(body, dict) else headers  # message protocol 1, or 2
    # On a retry these are the headers of the failed attempt, its trace among them. As the
    # keyword they override the message's, in both protocols.
    carrier = dict(call.kwargs.get("headers") or {})
    task = Task(
        name,
        _destination(amqp, call),
        id=facts.get("id"),
        carrier=carrier,
        attempt=(facts.get("retries") or 0) + 1,
        priority=call.kwargs.get("priority"),
        eta=_epoch(facts.get("eta"), amqp.app),
        server=_server(amqp.app),
        arguments=lambda: _published_arguments(amqp.app, name, body),
    )
    with recorder.submit(task) as operation:
        call.kwargs = {**call.kwargs, "headers": carrier}
        yield
        if call.error is not None:
            operation.settle(failed(call.error))


def submit_eager(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    task = call.instance
    queue = str(task.app.conf.task_default_queue)
    retries = call.kwargs.get("retries") or 0
    with recorder.submit(Task(task.name, queue, attempt=retries + 1)) as operation:
        yield
        if call.result is not None:
            operation.identify(call.result.id)


def _cached_senders(state: ModuleType) -> Iterable[tuple[object, str]]:
    for app in state._get_active_apps():  # noqa: SLF001 - there is no public list of apps
        amqp = vars(app).get("amqp")
        if amqp is not None and "send_task_message" in vars(amqp):
            yield amqp, "send_task_message"


def _destination(amqp: Any, call: Call) -> str:
    queue, exchange = call.argument(5, "queue"), call.argument(3, "exchange")
    if queue is None and exchange is None:
        return str(amqp.app.conf.task_default_queue)
    if queue is None:
        return str(call.argument(4, "routing_key") or getattr(exchange, "name", exchange))
    return str(getattr(queue, "name", queue))


def _published_arguments(app: Any, name: str, body: Any) -> Mapping[str, object]:
    args, kwargs = (body["args"], body["kwargs"]) if isinstance(body, dict) else body[:2]
    task = app.tasks.get(name)
    return kwargs if task is None else _arguments(task, args, kwargs)


def _arguments(task: Any, args: Any, kwargs: Any) -> Mapping[str, object]:
    return inspect.signature(task.run).bind_partial(*args, **kwargs).arguments


# Dispatch: from the request's creation to its hand-over to the pool. It is written at once
# where it ends; a task that waits in the worker for its ETA is not being dispatched.


def receive(call: Call, _: Recorder) -> Generator[None, None, None]:
    received = time.time_ns()
    yield
    call.instance.otel_received = received


def hand_over(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    # `BasePool.apply_async` knows its request by the callbacks only. It is the last moment
    # before the solo pool runs the task inside this very call.
    request = getattr(call.kwargs.get("accept_callback"), "__self__", None)
    if request is None or not hasattr(request, "request_dict"):
        return
    task = _requested(request)
    operation = recorder.dispatch(task, start_time=_start_time(request))
    operation.inject(request.request_dict)
    operation.end()
    attempt = _Attempt(request, task)
    call.kwargs = call.kwargs | {
        "callback": recorder.advised(call.kwargs["callback"], attempt.ran),
        "error_callback": recorder.advised(call.kwargs["error_callback"], attempt.lost),
    }
    yield


def revoke(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    request = call.instance
    if not call.argument(1, "terminated"):  # else it runs, and the pool reports its end
        operation = recorder.dispatch(_requested(request), start_time=_start_time(request))
        operation.settle(CANCELLED)
        operation.end()
    return
    yield


def reject(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Record a message that never becomes a request: unknown, invalid or undecodable."""
    message = next(argument for argument in call.args if hasattr(argument, "delivery_info"))
    headers = message.headers if isinstance(message.headers, dict) else {}
    body = call.args[0] if isinstance(call.args[0], dict) else {}
    facts = {**body, **headers}
    app = call.instance.app
    operation = recorder.dispatch(
        Task(
            str(facts.get("task") or "unknown"),
            _queue(app, message.delivery_info or {}),
            id=facts.get("id"),
            carrier=_carriers(facts),
            server=_server(app),
            worker=call.instance.hostname,
        )
    )
    operation.settle(REJECTED)
    operation.end()
    return
    yield


def _requested(request: Any) -> Task:
    return _read(request.app, request.type, request.id, request.request_dict)


def _start_time(request: Any) -> int:
    received: int = getattr(request, "otel_received", None) or time.time_ns()
    if request.eta is None:
        return received
    return min(max(received, int(request.eta.timestamp() * 1e9)), time.time_ns())


# Execute: `build_tracer` makes the function that runs one task in every pool. The children
# of prefork look it up late; `Consumer` imported it by name.


def execute(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    assert call.maker is not None  # noqa: S101 - a factory's product
    name, task = call.maker.argument(0, "name"), call.maker.argument(1, "task")
    request = call.argument(3, "request") or {}
    run = _read(task.app, name, call.argument(0, "uuid"), request)
    args, kwargs = call.argument(1, "args"), call.argument(2, "kwargs")
    run.arguments = lambda: _arguments(task, args, kwargs)
    with recorder.execute(run, measured=bool(request.get("is_eager"))) as operation:
        yield
        if isinstance(call.error, SystemExit) and _in_pool_child():
            operation.abandon()  # terminated from outside: the parent knows why, and reports it
        else:
            operation.settle(_outcome(task, call))


def _outcome(task: Any, call: Call) -> Outcome:
    if call.error is not None:
        return _classified(task, call.error)
    info = call.result.info
    return SUCCESS if info is None else _classified(task, info.retval)


def _classified(task: Any, error: Any) -> Outcome:
    kind = type(error).__name__
    if kind == "Retry":
        cause = error.exc if isinstance(error.exc, BaseException) else None
        return Outcome("retry", cause, expected=isinstance(cause, task.throws or ()))
    if kind == "Ignore":
        return IGNORED
    if kind == "Reject":
        return RETRY if error.requeue else REJECTED
    return failed(error, expected=isinstance(error, task.throws or ()))


class _Attempt:
    """One run in the pool, as the worker's main process hears of it; both ways only once."""

    def __init__(self, request: Any, task: Task) -> None:
        self._request = request
        self._task = task
        self._over = False

    def ran(self, call: Call, recorder: Recorder) -> Generator[None, None, None]:
        """Count what the child reports: a triple of failed or not, value, and run time."""
        if not isinstance(call.args[0], tuple):  # a pool without children, left by SystemExit
            self._count(recorder, failed(_cause(call.args[0])), None)
            return
        is_failure, value, runtime = call.args[0]
        if is_failure and isinstance(_cause(value), SystemExit):
            return  # billiard 4.3 tells it twice: the loss of the child comes next
        outcome = _classified(self._request.task, _cause(value)) if is_failure else SUCCESS
        self._count(recorder, outcome, runtime or None)
        return
        yield

    def lost(self, call: Call, recorder: Recorder) -> Generator[None, None, None]:
        """Report what the child could not: it was killed, or ended by itself."""
        if self._over:
            return
        outcome = self._loss(_cause(call.args[0]))
        started = self._request.time_start
        operation = recorder.execute(self._task, start_time=int(started * 1e9) if started else None)
        operation.settle(outcome)
        operation.end()
        self._count(recorder, outcome, None)
        return
        yield

    def _loss(self, error: Any) -> Outcome:
        request, task = self._request, self._request.task
        kind = type(error).__name__
        if kind == "Terminated":
            # Cancelled for a lost connection, it is delivered again; else it was revoked.
            return RETRY if request._already_cancelled else CANCELLED  # noqa: SLF001
        again = task.acks_late and (
            (kind == "WorkerLostError" and task.reject_on_worker_lost)
            or (kind == "TimeLimitExceeded" and not task.acks_on_timeout)
        )
        return Outcome("retry", error) if again else _classified(task, error)

    def _count(self, recorder: Recorder, outcome: Outcome, runtime: float | None) -> None:
        if self._over:
            return
        self._over = True
        now = time.time()
        started = self._request.time_start or now
        recorder.attempted(
            self._task, outcome, started=started, duration=runtime or max(0.0, now - started)
        )


def _cause(info: Any) -> Any:
    error = info.exception
    return (
        getattr(error, "exc", error) if type(error).__name__ == "ExceptionWithTraceback" else error
    )


def open_pool(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    """Count for the pool's children, who are forked in here, and watch the worker."""
    pool = call.instance
    closing = [recorder.relay()]
    yield
    app, reference = pool.app, weakref.ref(pool)
    closing.append(recorder.watch_workers(lambda: _slots(reference())))
    closing.append(recorder.watch_depth(lambda: _depths(app)))
    pool.otel_closing = closing


def close_pool(call: Call, _: Recorder) -> Generator[None, None, None]:
    yield
    for close in getattr(call.instance, "otel_closing", ()):
        close()


def _slots(pool: Any) -> list[Reading]:
    return [] if pool is None else [Reading(pool.num_processes)]


def _depths(app: Any) -> Iterable[Reading]:
    with app.connection_for_read(transport_options=_impatient(app)) as connection:
        for name in app.amqp.queues.consume_from:
            yield Reading(_depth(connection, name), queue=name)


def _impatient(app: Any) -> dict[str, Any]:
    return {**app.conf.broker_transport_options, "max_retries": 0}


def _depth(connection: Any, queue: str) -> int:
    with connection.channel() as channel:
        if hasattr(channel, "_size"):  # kombu's virtual transports; it sums over priorities
            return int(channel._size(queue))  # noqa: SLF001
        try:
            return int(channel.queue_declare(queue, passive=True).message_count)
        except connection.channel_errors:
            return 0  # no such queue, or not yet


def flush(_: Call, recorder: Recorder) -> Generator[None, None, None]:
    # Pool children end by os._exit, which runs no atexit handler.
    yield
    recorder.flush()


def _in_pool_child() -> bool:
    process = sys.modules.get("billiard.process")
    return process is not None and bool(process.current_process()._identity)  # noqa: SLF001


# Reading


def _read(app: Any, name: str, task_id: str, request: Mapping[str, Any]) -> Task:
    delivery = request.get("delivery_info") or {}
    eager = request.get("is_eager")
    return Task(
        name,
        str(app.conf.task_default_queue) if eager else _queue(app, delivery),
        id=task_id,
        carrier=None if eager else _carriers(request),
        attempt=(request.get("retries") or 0) + 1,
        priority=delivery.get("priority"),
        worker=request.get("hostname"),
        server=None if eager else _server(app),
    )


def _carriers(headers: Mapping[str, Any]) -> tuple[object, ...]:
    # Protocol 1, and other tracers, have the headers one level deeper.
    return (headers, headers.get("headers"))


def _queue(app: Any, delivery: Mapping[str, Any]) -> str:
    exchange, routing_key = delivery.get("exchange"), delivery.get("routing_key") or ""
    if exchange:
        queues = app.amqp.queues
        for queue in (queues.get(routing_key), *queues.values()):
            if (
                queue is not None
                and queue.exchange.name == exchange
                and queue.routing_key == routing_key
            ):
                return str(queue.name)
    return str(routing_key)


def _server(app: Any) -> tuple[str, int | None] | None:
    if app not in _servers:
        _servers[app] = None
        connection = app.connection_for_write()  # connects when used, and is not
        info = connection.info()
        if info["transport"] not in ("memory", "filesystem") and info["hostname"]:
            _servers[app] = (str(info["hostname"]), info["port"])
    return _servers[app]


def _epoch(eta: str | None, app: Any) -> float | None:
    if not eta:
        return None
    when = datetime.fromisoformat(eta)
    return (when if when.tzinfo else when.replace(tzinfo=app.timezone)).timestamp()


_REJECTING = ("on_unknown_message", "on_unknown_task", "on_invalid_task", "on_decode_error")

adapter = Adapter(
    system="celery",
    instruments=("celery >= 5.3, < 6",),
    rivals=("opentelemetry.instrumentation.celery:CeleryInstrumentor",),
    hooks=(
        Hook("celery.app.amqp:AMQP._create_task_sender", submit, factory=True),
        Hook("celery._state", submit, find=_cached_senders),
        Hook("celery.app.task:Task.apply", submit_eager),
        Hook("celery.worker.request:Request.__init__", receive),
        Hook("celery.concurrency.base:BasePool.apply_async", hand_over),
        Hook("celery.worker.request:Request._announce_revoked", revoke),
        *(Hook(f"celery.worker.consumer.consumer:Consumer.{name}", reject) for name in _REJECTING),
        Hook(
            "celery.app.trace:build_tracer",
            execute,
            factory=True,
            aliases=("celery.worker.consumer.consumer:build_tracer",),
        ),
        Hook("celery.concurrency.base:BasePool.start", open_pool),
        Hook("celery.concurrency.base:BasePool.stop", close_pool),
        Hook("celery.concurrency.base:BasePool.terminate", close_pool),
        Hook("billiard.pool:Worker.workloop", flush),
    ),
)
