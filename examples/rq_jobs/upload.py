"""Enqueue three jobs below one span; the second waits for the first, and the third fails."""

import os

from opentelemetry import trace
from redis import Redis
from rq import Queue
from tasks import check, publish, resize

queue = Queue(connection=Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost:6379/0")))
with trace.get_tracer(__name__).start_as_current_span("upload"):
    resized = queue.enqueue(resize, "cat.png")
    queue.enqueue(publish, "cat.png", depends_on=resized)
    queue.enqueue(check, "cat.png")
