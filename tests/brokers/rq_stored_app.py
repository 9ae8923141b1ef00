"""A user's request that stores a job, and a process that enqueues it, as rq-scheduler does."""

import json
import os
import sys

from opentelemetry import trace
from redis import Redis
from rq import Queue
from rq.job import Job

APP = "tests.brokers.rq_stored_app"
connection = Redis.from_url(os.environ["APP_BROKER"])
queue = Queue("default", connection=connection)
tracer = trace.get_tracer("user")


def job(key: str = "") -> None:
    if key == "fails":
        raise ValueError


def save(key: str) -> None:
    with tracer.start_as_current_span(f"request {key}"):
        Job.create(f"{APP}.job", (key,), id=key, connection=connection, origin="default").save()


def enqueue(key: str) -> None:
    queue.enqueue_job(Job.fetch(key, connection=connection))


def requeue(key: str) -> None:
    Job.fetch(key, connection=connection).requeue()


def requeue_in_a_span(key: str) -> None:
    with tracer.start_as_current_span("admin"):
        requeue(key)


def main() -> None:
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        action, key = json.loads(line)
        globals()[action](key)
        print(json.dumps("done"), flush=True)
