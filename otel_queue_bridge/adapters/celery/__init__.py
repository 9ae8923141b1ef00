"""Celery: every publish, the hand-over to the pool, and the run in any kind of pool.

Names cited in this folder are those of Celery 5.7 and billiard 4.3.
"""

from otel_queue_bridge.adapter import Adapter, Hook, poll
from otel_queue_bridge.adapters.celery import (
    attempt,
    batches,
    beat,
    dispatch,
    execute,
    pool,
    submit,
)

_REJECTING = ("on_unknown_message", "on_unknown_task", "on_invalid_task", "on_decode_error")

_POLLING = (
    "celery.events.dispatcher:EventDispatcher._publish",
    "celery.worker.consumer.consumer:Consumer.connect",
    "celery.worker.consumer.events:Events.start",
    "celery.worker.consumer.mingle:Mingle.start",
    "celery.worker.consumer.gossip:Gossip.start",
    "celery.worker.consumer.tasks:Tasks.start",
    "celery.worker.pidbox:Pidbox.start",
    "celery.worker.pidbox:Pidbox.stop",
    "celery.bootsteps:ConsumerStep._close",
    "kombu.transport.redis:QoS.restore_visible",
    "kombu.transport.redis:MultiChannelPoller.maybe_refresh_binding_expiry",  # since kombu 5.7
)
"""What a worker does by itself. The reads that bring its messages go by no instrumentation."""

adapter = Adapter(
    system="celery",
    instruments=("celery >= 5.3, < 6",),
    rivals=("opentelemetry.instrumentation.celery:CeleryInstrumentor",),
    interrupts=("billiard.exceptions:SoftTimeLimitExceeded",),
    hooks=(
        # First, since a worker may be running: a child that it forks now has to find the relay.
        Hook("celery.concurrency.base:BasePool.apply_async", dispatch.hand_over),
        Hook("celery.worker.consumer.consumer:Consumer.update_strategies", execute.adopt_tracers),
        Hook("celery.worker.consumer.consumer:Consumer.update_strategies", pool.note_consumer),
        Hook("celery.worker.consumer.consumer", pool.note_consumer, find=pool.renew_strategies),
        Hook("celery.app.amqp:AMQP._create_task_sender", submit.submit, factory=True),
        Hook("celery._state", submit.submit, find=submit.cached_senders),
        Hook("celery.app.task:Task.apply", submit.submit_eager),
        Hook("celery.worker.request:Request.__init__", dispatch.receive),
        Hook("celery.worker.request:Request._announce_revoked", dispatch.revoke),
        *(
            Hook(f"celery.worker.consumer.consumer:Consumer.{name}", dispatch.reject)
            for name in _REJECTING
        ),
        Hook(
            "celery.app.trace:build_tracer",
            execute.execute,
            factory=True,
            aliases=("celery.worker.consumer.consumer:build_tracer",),
        ),
        Hook("celery._state", execute.execute, find=execute.made_tracers),
        Hook("celery.concurrency.base:BasePool.start", pool.open_pool),
        Hook("celery.concurrency.base:BasePool.stop", pool.close_pool),
        Hook("celery.concurrency.base:BasePool.terminate", pool.close_pool),
        Hook("celery.beat:Scheduler.apply_async", beat.submit, overrides=True),
        Hook("celery.beat:_Process.start", beat.start, optional=True),
        Hook("celery.platforms:close_open_fds", beat.keep_line),
        Hook("celery_batches:Batches.flush", batches.flush, optional=True),
        Hook(
            "celery_batches.trace:apply_batches_task",
            batches.execute,
            optional=True,
            aliases=("celery_batches:apply_batches_task",),
        ),
        Hook("billiard.pool:ApplyResult.discard", attempt.discard),
        Hook("billiard.pool:Worker.workloop", execute.work),
        *(Hook(target, poll, optional=True) for target in _POLLING),
    ),
)
