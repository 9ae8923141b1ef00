"""A user's functions on RQ, and every way to enqueue them; as a script it uses the named ways."""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from opentelemetry import baggage, trace
from opentelemetry.context import attach
from redis import Redis
from rq import Queue, Retry, get_current_job
from rq.job import Dependency, Job

try:
    from rq import Repeat
    from rq.cron import CronJob, CronScheduler
except ImportError:  # before RQ 2.6
    Repeat = CronJob = CronScheduler = None
try:
    from rq.rate_limit import RateLimit
except ImportError:  # before RQ 3.0
    RateLimit = None

SECRET = "swordfish"  # noqa: S105
"""Jobs get and return this; it must not be in the telemetry."""
APP = "tests.brokers.rq_submits_app"
connection = Redis.from_url(os.environ["APP_BROKER"])
queue = Queue("default", connection=connection)
other = Queue("other", connection=connection)
folder = Path(os.environ["APP_FOLDER"])
tracer = trace.get_tracer("user")


def note(*words: object) -> None:
    with (folder / "notes").open("a") as file:
        file.write(json.dumps([*words, os.getpid()]) + "\n")


def a(*args: str, **kwargs: str) -> str:
    return SECRET


def b() -> str:
    return SECRET


def c() -> str:
    return SECRET


def fails(*_: object) -> None:
    raise ValueError


def retries() -> None:
    if get_current_job().retries_left:
        raise ConnectionError


def nests() -> None:
    queue.enqueue(b)


def nests_many() -> None:
    queue.enqueue_many([Queue.prepare_data(b), Queue.prepare_data(b)])


def saves() -> None:
    """Save the job as RQ's documentation shows, and note what it looks like."""
    job = get_current_job()
    job.meta["progress"] = 1
    job.save_meta()
    job.save()
    job = Job.fetch(job.id, connection=connection)
    note("saved", job.meta, connection.hexists(job.key, "otel"), sorted(map(str, job.meta)))


class Shop:
    """Its methods and its objects are jobs, too."""

    def order(self) -> None:
        pass

    def __call__(self) -> None:
        pass

    @classmethod
    def restock(cls) -> None:
        pass


def limited() -> None:
    time.sleep(0.3)


def tells() -> None:
    """Note what the job can see of itself."""
    job = get_current_job()
    fields = sorted(key.decode() for key in connection.hkeys(job.key))
    note("seen", job.meta, repr(job.args), repr(job.kwargs), fields)


def wait_for(status: str, *jobs: Job) -> None:
    deadline = time.monotonic() + 90
    while any(job.get_status() != status for job in jobs):
        assert time.monotonic() < deadline, [job.get_status() for job in jobs]
        time.sleep(0.02)


def done(job: Job) -> Job:
    wait_for("finished", job)
    return job


def depends(on: Any, **options: Any) -> Job:
    """Enqueue inside another span than the one that enqueued the job it waits for."""
    with tracer.start_as_current_span("later"):
        return queue.enqueue(b, depends_on=on, **options)


def many_depending(on: Job) -> Any:
    with tracer.start_as_current_span("later"):
        return queue.enqueue_many(
            [Queue.prepare_data(b, depends_on=on), Queue.prepare_data(c, depends_on=on)]
        )


def soon() -> datetime:
    return datetime.now(timezone.utc) + timedelta(seconds=1)


def pipelined() -> None:
    with connection.pipeline() as pipeline:
        queue.enqueue(a, pipeline=pipeline)
        pipeline.execute()


def shared_meta() -> None:
    meta = {"user": "alice"}
    for _ in range(2):
        done(queue.enqueue(tells, meta=meta))
    note("meta", meta, None)


def requeued() -> None:
    job = queue.enqueue(fails)
    wait_for("failed", job)
    with tracer.start_as_current_span("later"):
        job.requeue()


def duplicate() -> None:
    queue.enqueue(a, unique=True, job_id="only")
    try:
        queue.enqueue(a, unique=True, job_id="only")
    except Exception as error:  # noqa: BLE001 - the test asks which
        note("duplicate", type(error).__name__)


def unique_without_an_id() -> None:
    try:
        queue.enqueue_job(Job.create(a, connection=connection), unique=True)
    except Exception as error:  # noqa: BLE001 - the test asks which
        note("unnamed", type(error).__name__)


def duplicate_later() -> None:
    queue.enqueue_at(soon(), a, unique=True, job_id="only_later")
    try:
        queue.enqueue_in(timedelta(seconds=1), a, unique=True, job_id="only_later")
    except Exception as error:  # noqa: BLE001 - the test asks which
        note("duplicate", type(error).__name__)


def cancelled() -> None:
    """Cancel a job that another one waits for, and have that one run."""
    job = queue.enqueue_in(timedelta(hours=1), a)
    depends(job)
    job.cancel(enqueue_dependents=True)


def at_a_time(function: Callable[..., Any], **options: Any) -> Job:
    """Enqueue it so that it runs alone among its like."""
    limit = RateLimit(function.__name__, 1)
    return queue.enqueue(function, rate_limit=limit, **options)


def limited_and_depending() -> None:
    """Wait for a job, and then for the rate limit that another one is using up."""
    first = queue.enqueue(slow)
    depends(first, rate_limit=RateLimit("b", 1))
    depends(first, rate_limit=RateLimit("b", 1))


def limited_and_requeued() -> None:
    job = at_a_time(fails)
    wait_for("failed", job)
    with tracer.start_as_current_span("later"):
        job.requeue()


def refused() -> None:
    """Enqueue as a Redis user who may do everything but enqueue."""
    with Redis.from_url(os.environ["APP_BROKER"].replace("//shop:", "//poor:")) as theirs:
        try:
            Queue("default", connection=theirs).enqueue_many(
                [Queue.prepare_data(a), Queue.prepare_data(b)]
            )
        except Exception as error:  # noqa: BLE001 - the test asks which
            note("refused", type(error).__name__)


def cron_job() -> None:
    meta = {"user": "alice"}
    job = CronJob("default", func=tells, interval=1, meta=meta)
    for _ in range(2):
        job.enqueue(connection)
    note("meta", meta, None)


def cron_scheduler() -> None:
    scheduler = CronScheduler(connection)
    scheduler.register(a, "default", interval=60)
    scheduler.enqueue_jobs()


def on_two_queues() -> None:
    job = queue.enqueue(a)
    with tracer.start_as_current_span("later"):
        other.enqueue(b, depends_on=job)


def depending_on_a_failure() -> None:
    depends(Dependency(queue.enqueue(fails), allow_failure=True))


here = Queue("here", is_async=False, connection=connection)

WAYS: dict[str, Callable[[], Any]] = {
    "enqueue": lambda: queue.enqueue(a, SECRET, password=SECRET),
    "enqueue_call": lambda: queue.enqueue_call(a, args=(SECRET,), kwargs={"x": SECRET}),
    "by name": lambda: queue.enqueue(f"{APP}.a"),
    "with an id": lambda: queue.enqueue(a, job_id="named"),
    "enqueue_many": lambda: queue.enqueue_many([Queue.prepare_data(a), Queue.prepare_data(b)]),
    "enqueue_many, unmet": lambda: many_depending(queue.enqueue(slow)),
    "enqueue_many, met": lambda: many_depending(done(queue.enqueue(a))),
    "enqueue_many, refused": refused,
    "enqueue_in": lambda: queue.enqueue_in(timedelta(seconds=1), a),
    "enqueue_at": lambda: queue.enqueue_at(soon(), a),
    "method": lambda: queue.enqueue(Shop().order),
    "object": lambda: queue.enqueue(Shop()),
    "class method": lambda: queue.enqueue(Shop.restock),
    "unique, without an id": unique_without_an_id,
    "unique": lambda: queue.enqueue(a, unique=True, job_id="unique"),
    "duplicate": duplicate,
    "pipeline": pipelined,
    "depends_on, unmet": lambda: depends(queue.enqueue(slow)),
    "depends_on, met": lambda: depends(done(queue.enqueue(a))),
    "depends_on two": lambda: depends([queue.enqueue(slow), queue.enqueue(slow)]),
    "depends_on a failure": depending_on_a_failure,
    "two queues": on_two_queues,
    "nested": lambda: queue.enqueue(nests),
    "nested enqueue_many": lambda: queue.enqueue(nests_many),
    "retry": lambda: queue.enqueue(retries, retry=Retry(max=1)),
    "retry with interval": lambda: queue.enqueue(retries, retry=Retry(max=1, interval=1)),
    "requeue": requeued,
    "repeat": lambda: queue.enqueue(a, repeat=Repeat(times=1)),
    "cron job": cron_job,
    "cron scheduler": cron_scheduler,
    "saved": lambda: queue.enqueue(saves, meta={"user": "alice"}),
    "shared meta": shared_meta,
    "duplicate, later": duplicate_later,
    "cancelled": cancelled,
    "rate limit": lambda: [at_a_time(limited) for _ in range(3)],
    "rate limit, in": lambda: queue.enqueue_in(
        timedelta(seconds=1), a, rate_limit=RateLimit("in", 1)
    ),
    "rate limit, retry": lambda: at_a_time(retries, retry=Retry(max=1, enqueue_at_front=True)),
    "rate limit, retry with interval": lambda: at_a_time(retries, retry=Retry(1, interval=1)),
    "rate limit, depends_on": limited_and_depending,
    "rate limit, requeue": limited_and_requeued,
    "here": lambda: here.enqueue(a),
    "here, failing": lambda: here.enqueue(fails),
    "here, many": lambda: here.enqueue_many([Queue.prepare_data(a), Queue.prepare_data(b)]),
    "here, nested": lambda: here.enqueue(nests),
}


def slow() -> None:
    """Run for some time behind the moment from which another job waits for this one."""
    while not get_current_job().dependent_ids:
        time.sleep(0.02)
    time.sleep(0.3)


def main() -> None:
    attach(baggage.set_baggage("user", "alice"))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        for way in json.loads(line):
            # RQ's cron logs to the standard output.
            with tracer.start_as_current_span(way), redirect_stdout(sys.stderr):
                WAYS[way]()
        print(json.dumps("done"), flush=True)
