"""RQ: every enqueue and its cause, the worker that forks a work-horse, and the job in it.

Names cited in this folder are those of RQ 3.0.
"""

from otel_queue_bridge.adapter import Adapter, Hook, poll
from otel_queue_bridge.adapters.rq import carrier, execute, lost, submit, work

adapter = Adapter(
    system="rq",
    instruments=("rq >= 2.0, < 4",),
    child_export="relay",  # a work-horse lives for one job: its own export would delay the next
    # Signal handlers raise these, wherever the process may be at that time.
    interrupts=(
        "rq.timeouts:BaseTimeoutException",
        "rq.exceptions:ShutDownImminentException",
        "rq.exceptions:StopRequested",
        "rq.worker:StopRequested",  # its place in RQ 2.0
    ),
    hooks=(
        Hook("rq.queue:Queue.enqueue_job", submit.submit),
        Hook("rq.queue:Queue._enqueue_job", submit.submit),
        Hook("rq.queue:Queue._enqueue_rate_limited_job", submit.submit, optional=True),
        Hook("rq.queue:Queue.schedule_job", submit.submit),
        Hook("rq.queue:Queue.enqueue_many", submit.enqueue_many),
        Hook("rq.queue:Queue.create_job", submit.defer, within=submit.within),
        Hook("rq.queue:Queue.enqueue_dependents", submit.promote),
        Hook("rq.registry:ReadyJobRegistry.enqueue_jobs", submit.promote, optional=True),
        Hook("rq.scheduler:RQScheduler.enqueue_scheduled_jobs", submit.promote),
        Hook("rq.job:Job.retry", submit.retry),
        Hook("rq.job:Job.to_dict", submit.store),
        Hook("rq.job:Job.restore", carrier.restore),
        Hook(
            "rq.worker:BaseWorker.handle_job_retry",  # RQ 2.1 and later
            submit.retry_returned,
            overrides=True,
            optional=True,
        ),
        Hook("rq.queue:Queue.run_sync", execute.execute_sync),
        Hook("rq.job:Job._handle_failure", execute.note_error),
        Hook("rq.registry:StartedJobRegistry.cleanup", lost.clean_up),
        Hook("rq.intermediate_queue:IntermediateQueue.cleanup", lost.clean_up),
        Hook("rq.job:Job.retry", lost.abandon_to_retry),
        Hook("rq.registry:FailedJobRegistry.add", lost.abandon),
        *(
            Hook(f"rq.worker:BaseWorker.{name}", advice, overrides=True)
            for name, advice in work.METHODS.items()
        ),
        Hook("rq.worker:BaseWorker.__init__", poll),
        *(
            Hook(f"rq.worker:BaseWorker.{name}", poll, overrides=True, optional=True)
            for name in work.POLLING
        ),
        Hook("rq.registry:BaseRegistry.get_expired_job_ids", lost.look),
        Hook("rq.intermediate_queue:IntermediateQueue.get_job_ids", poll),
        *(
            Hook(f"rq.scheduler:RQScheduler.{name}", poll, optional=True)
            for name in work.SCHEDULING
        ),
        Hook("rq.cron:CronScheduler.heartbeat", poll, optional=True),
        Hook("rq.cron:CronJob.enqueue", submit.cron, optional=True),
    ),
)
