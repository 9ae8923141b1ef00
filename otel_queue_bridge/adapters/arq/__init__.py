"""ARQ: every enqueue of a pool, and every job that a worker takes, in one event loop.

It has more than 300 lines of code for what ARQ leaves to us. A retry is not submitted, so that
there is no message to carry it (`Worker.finish_job` moves the job's score at most). How an attempt
ended is in no argument or result (`Worker.run_job` writes it into counters of all jobs). And a job
stays in its queue while it runs, so that no one command of Redis tells how many wait.

Names cited in this folder are those of ARQ 0.28.
"""

from otel_queue_bridge.adapter import Adapter, Hook
from otel_queue_bridge.adapters.arq import carrier, dispatch, execute, run, submit, worker

adapter = Adapter(
    system="arq",
    instruments=("arq >= 0.25, < 0.29",),
    rivals=(worker.RIVAL,),
    hooks=(
        Hook("arq.connections:ArqRedis.enqueue_job", submit.submit, overrides=True),
        Hook("arq.connections:serialize_job", carrier.serialize, within=carrier.sent),
        Hook("arq.worker:Worker.run_cron", submit.run_cron, overrides=True),
        Hook("arq.worker:Worker.run", worker.run, overrides=True),
        Hook("arq.worker:Worker.main", worker.end, overrides=True),
        Hook("arq.worker:Worker.close", worker.end, overrides=True),
        Hook("arq.worker:Worker._poll_iteration", worker.poll_iteration, overrides=True),
        Hook("arq.worker:Worker.run_job", dispatch.run_job, overrides=True),
        Hook("arq.worker:deserialize_job_raw", dispatch.deserialize, within=run.current),
        Hook("arq.worker:serialize_result", run.note_result, within=run.current),
        Hook("arq.worker:Worker.finish_failed_job", dispatch.finish_failed_job, overrides=True),
        Hook("arq.worker:Worker.finish_job", execute.finish_job, overrides=True),
        Hook("redis.asyncio.client:Pipeline.execute", carrier.join, within=carrier.joining),
    ),
)
