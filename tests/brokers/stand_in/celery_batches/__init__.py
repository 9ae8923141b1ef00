"""The shape of celery-batches 0.11, which keeps Celery below 5.7: one run for many tasks."""

from typing import Any

from celery import Task
from celery.utils.imports import symbol_by_name
from celery.worker.request import create_request_cls
from celery.worker.strategy import proto1_to_proto2

from celery_batches.trace import apply_batches_task


class SimpleRequest:
    request_dict: dict[str, Any] | None = None

    def __init__(self, request: Any) -> None:
        self.id, self.request_dict = request.id, request.request_dict
        self.args, self.kwargs, _ = request._payload  # noqa: SLF001 - as the original does


class Batches(Task):
    abstract = True
    flush_every = 10

    def Strategy(self, task: Any, app: Any, consumer: Any) -> Any:  # noqa: N802 - Celery's name
        self._pool, buffer = consumer.pool, []
        kind = create_request_cls(
            symbol_by_name(task.Request), task, consumer.pool, consumer.hostname, None, app=app
        )

        def received(message: Any, body: Any, ack: Any, reject: Any, _: Any, **__: Any) -> None:
            if body is None:
                body, headers, decoded = message.body, message.headers, False
            else:
                body, headers, decoded, _ = proto1_to_proto2(message, body)
            known = {"hostname": consumer.hostname, "task": task, "app": app}
            known |= {"body": body, "headers": headers, "decoded": decoded}
            buffer.append(kind(message, on_ack=ack, on_reject=reject, **known))
            if len(buffer) == self.flush_every:
                self.flush(buffer)
                buffer.clear()

        return received

    def flush(self, requests: Any) -> Any:
        batch, late = list(requests), self.acks_late

        def acknowledge() -> None:
            for request in batch:
                request.acknowledge()

        return self._pool.apply_async(
            apply_batches_task,
            (self, ([SimpleRequest(one) for one in batch],), 0, None),
            accept_callback=lambda _, __: None if late else acknowledge(),
            callback=lambda _: acknowledge() if late else None,
        )
