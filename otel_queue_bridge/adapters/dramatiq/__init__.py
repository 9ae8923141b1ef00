"""Dramatiq: every enqueue of every broker, a worker's hold on a message, and the run.

Names cited in this folder are those of Dramatiq 2.2. The thread classes are cited by their names
with an underscore: before 2.0 they had no others, and 2.x still has these.
"""

from otel_queue_bridge.adapter import Adapter, Hook, poll
from otel_queue_bridge.adapters.dramatiq import attempt, dispatch, execute, submit, worker

adapter = Adapter(
    system="dramatiq",
    instruments=("dramatiq >= 1.17, < 3",),
    hooks=(
        Hook("dramatiq.broker:Broker.enqueue", submit.submit, overrides=True),
        Hook("dramatiq.broker:Consumer.__next__", poll, overrides=True),
        Hook("dramatiq.message:Message.decode", dispatch.decode),
        Hook("dramatiq.worker:_ConsumerThread.handle_message", dispatch.receive),
        Hook("dramatiq.worker:_ConsumerThread.requeue_messages", dispatch.hand_back),
        Hook("dramatiq.worker:_WorkerThread.process_message", execute.execute),
        Hook("dramatiq.worker:_ConsumerThread.post_process_message", attempt.note_end),
        Hook("dramatiq.broker:Broker.emit_after", submit.note_signal, within=attempt.listens),
        Hook("dramatiq.worker:Worker.start", worker.start),
        Hook("dramatiq.worker:Worker.stop", worker.stop),
    ),
)
