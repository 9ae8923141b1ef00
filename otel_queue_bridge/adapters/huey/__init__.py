"""Huey: every way into its queue, a worker's hold on a task, and the run.

Names cited in this folder are those of Huey 3.5; 2.6 has them, too, unless it says otherwise.

It is longer than an adapter should be, for what Huey lacks: a place in `Message` for what travels
with a task (`carrier`), a word of `Huey._execute` on what a run came to (`execute`), and a way to
ask a storage what waits on a connection that is not its own (`queues`).
"""

from otel_queue_bridge.adapter import Adapter, Hook
from otel_queue_bridge.adapters.huey import carrier, dispatch, execute, submit, worker

adapter = Adapter(
    system="huey",
    instruments=("huey >= 2.6, < 4",),
    hooks=(
        Hook("huey.api:Huey.enqueue", submit.submit),
        Hook("huey.api:Huey.add_schedule", submit.submit_later, within=submit.cause),
        Hook("huey.api:Huey._requeue_task", submit.retry),
        Hook("huey.consumer:Scheduler.loop", submit.promote),
        Hook("huey.consumer:Scheduler.enqueue_periodic_tasks", submit.repeat),
        Hook("huey.api:Huey.serialize_task", carrier.write),
        Hook("huey.serializer:Serializer._serialize", carrier.append, within=carrier.writing),
        Hook("huey.api:Huey.deserialize_task", dispatch.read),
        Hook("huey.serializer:Serializer._deserialize", carrier.note, within=carrier.reading),
        Hook("huey.api:Huey.dequeue", dispatch.receive),
        Hook("huey.api:Huey.execute", dispatch.dispatch),
        Hook("huey.api:Huey._execute", execute.execute),
        Hook("huey.api:Huey._emit", execute.note),
        Hook("huey.consumer:Worker.loop", worker.work),
        Hook("huey.consumer:BaseProcess.shutdown", worker.end, overrides=True),
        Hook("huey.consumer:Consumer.stop", worker.stop),
        Hook("huey.api:Huey.notify_interrupted_tasks", worker.interrupt),
    ),
    interrupts=("huey.exceptions:TaskTimeout",),  # 2.6 has no time limits
)
