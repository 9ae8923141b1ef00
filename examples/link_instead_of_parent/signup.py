"""Submit two jobs below one span."""

import os

from opentelemetry import trace
from redis import Redis
from rq import Queue
from tasks import report, welcome

queue = Queue(connection=Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost:6379/0")))
with trace.get_tracer(__name__).start_as_current_span("signup"):
    queue.enqueue(welcome, "Ada")
    queue.enqueue(report, "Ada")
