"""A user's Celery app whose tasks have strategies of others; also the script that submits."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.app.trace import trace_task_ret
from celery.utils.imports import symbol_by_name
from celery.worker.request import create_request_cls
from opentelemetry import trace

sys.path.append(str(Path(__file__).parent / "stand_in"))  # last: a real celery-batches comes first
from celery_batches import Batches

app = Celery("app", broker=os.environ["APP_BROKER"])
app.conf.update(
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    task_protocol=int(os.environ.get("APP_PROTOCOL", "2")),
)
tracer = trace.get_tracer("user")
SIZE = 3


@app.task(base=Batches, name="good", flush_every=SIZE)
def good(requests: list[Any]) -> None:
    with tracer.start_as_current_span("user"):
        print(f"sum {sum(request.args[0] for request in requests)}")


@app.task(base=Batches, name="bad", flush_every=SIZE)
def bad(_: list[Any]) -> None:
    raise LookupError("swordfish")


@app.task(base=Batches, name="die", flush_every=SIZE)
def die(_: list[Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(base=Batches, name="late", flush_every=SIZE, acks_late=True)
def late(_: list[Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Plain(Task):
    """A strategy whose callbacks are plain functions."""

    abstract = True

    def Strategy(self, task: Any, app: Any, consumer: Any) -> Any:  # noqa: N802 - Celery's name
        kind = create_request_cls(
            symbol_by_name(task.Request), task, consumer.pool, consumer.hostname, None, app=app
        )

        def received(message: Any, _: Any, ack: Any, reject: Any, __: Any, **___: Any) -> None:
            request = kind(message, on_ack=ack, on_reject=reject, task=task, app=app)
            facts = (task.name, request.id, request.request_dict, request.body)
            consumer.pool.apply_async(
                self.target,
                (*facts, request.content_type, request.content_encoding),
                callback=lambda result: ended(request, result),
            )

        return received


def ended(request: Any, result: object) -> None:
    request.acknowledge()
    print(f"{request.name} {type(result)}")


def own(name: str, *_: object) -> str:
    return f"{name} ran"


@app.task(base=Plain, name="traced", target=staticmethod(trace_task_ret))
def traced(_: int) -> None:
    with tracer.start_as_current_span("user"):
        pass


@app.task(base=Plain, name="failing", target=staticmethod(trace_task_ret))
def failing(_: int) -> None:
    raise LookupError("swordfish")


@app.task(base=Plain, name="unknown", target=staticmethod(own))
def unknown(_: int) -> None:
    pass


if __name__ == "__main__":
    for number in range(int(sys.argv[2])):
        app.send_task(sys.argv[1], (number,))
