"""Traces and metrics of own_queue, from outside: neither the queue nor its apps know of it."""

import json

from otel_queue_bridge.adapter import Adapter, Arguments, Hook, Outcome, Reading, Task, ask_redis
from otel_queue_bridge.instrumentor import QueueInstrumentor


def task_of(queue, job):
    call = Arguments(queue.tasks.get(job["task"]), job["args"], job["kwargs"])
    address = queue.redis.connection_pool.connection_kwargs
    return Task(
        job["task"],
        queue.name,
        id=job["id"],
        carrier=job.setdefault("otel", {}),  # travels with the job; a worker without us ignores it
        attempt=job["attempt"],
        eta=job.get("due"),
        server=(address["host"], address["port"]),
        arguments=lambda: call,
    )


def submit(call, recorder):
    job = call.argument(0, "job")
    job["otel"] = dict(job.get("otel", {}))  # else a retry would share that of the first attempt
    with recorder.submit(task_of(call.instance, job)) as operation:
        yield
        operation.settle_by(call)


def dispatch(call, recorder):
    queue, job = call.instance, call.argument(0, "job")
    queue.otel_dispatch = operation = recorder.dispatch(task_of(queue, job))
    yield
    operation.settle(Outcome("cancelled"))  # nothing, if `execute` has ended it
    operation.end()


def execute(call, recorder):
    queue, job = call.instance, call.argument(0, "job")
    queue.otel_dispatch.inject(task_of(queue, job).carrier)
    queue.otel_dispatch.end()
    with recorder.execute(task_of(queue, job), measured=True) as queue.otel_execute:
        queue.otel_execute.settle(Outcome("success"))
        yield
    queue.otel_execute = None


def fail(call, _):
    queue, job, error = call.instance, call.argument(0, "job"), call.argument(1, "error")
    again = job["attempt"] <= queue.retries[job["task"]]
    queue.otel_execute.settle(Outcome("retry" if again else "failure", error))


def waiting(queue, recorder):
    ready, later, head = ask_redis(
        queue.redis,
        [("LLEN", queue.name), ("ZCARD", f"{queue.name}:later"), ("LINDEX", queue.name, 0)],
    )
    oldest = recorder.age(json.loads(head).get("otel")) if head else 0.0
    return Reading(ready, queue=queue.name, delayed=later, oldest=oldest)


def work(call, recorder):
    queue = call.instance
    queue.otel_execute = None
    recorder.watch_workers(lambda it: [Reading(1, busy=int(it.otel_execute is not None))], queue)
    recorder.watch_depth(lambda it: [waiting(it, recorder)], queue)
    yield
    recorder.close(queue)
    recorder.flush(metrics=True)  # a child of multiprocessing runs no exit handlers, the SDK's too


adapter = Adapter(
    system="own_queue",
    instruments=(),  # a package of a released version would stand here: "own-queue >= 2, < 3"
    hooks=(
        Hook("own_queue:Queue.push", submit, overrides=True),
        Hook("own_queue:Queue.handle", dispatch),
        Hook("own_queue:Queue.run", execute),
        Hook("own_queue:Queue.fail", fail),
        Hook("own_queue:Queue.work", work),
    ),
)


class OwnQueueInstrumentor(QueueInstrumentor):
    queue = "own_queue"
