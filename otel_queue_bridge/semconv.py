"""The names of all attributes, spans and metrics, in three vocabularies.

Messaging attributes follow OpenTelemetry's semantic conventions 1.44.0 (Development).
`task.*` is ours: the conventions have nothing for task queues yet.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from opentelemetry.trace import SpanKind

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

Naming = Literal["task", "system", "messaging"]
NAMINGS: tuple[Naming, ...] = get_args(Naming)

MESSAGING_SYSTEM = "messaging.system"
MESSAGING_OPERATION_NAME = "messaging.operation.name"
MESSAGING_OPERATION_TYPE = "messaging.operation.type"
MESSAGING_DESTINATION_NAME = "messaging.destination.name"
MESSAGING_MESSAGE_ID = "messaging.message.id"
MESSAGING_BATCH_MESSAGE_COUNT = "messaging.batch.message_count"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
OTHER_ERROR = "_OTHER"
"""The `error.type` of a failure that nothing names."""
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACKTRACE = "exception.stacktrace"

TASK_NAME = "task.name"
TASK_ATTEMPT = "task.attempt"
TASK_PRIORITY = "task.priority"
TASK_SCHEDULE = "task.schedule"
TASK_STATUS = "task.status"
TASK_WAIT = "task.wait"
TASK_WORKER = "task.worker"
TASK_ARGUMENT = "task.argument."


class Step(NamedTuple):
    """One of the three operations on a task."""

    name: str
    """messaging.operation.name"""
    type: str
    """messaging.operation.type"""
    kind: SpanKind
    system_name: str
    """The part after `{system}.` in the articles' span names."""


SUBMIT = Step("submit", "send", SpanKind.PRODUCER, "client.submit")
DISPATCH = Step("dispatch", "receive", SpanKind.CLIENT, "worker.dispatch")
EXECUTE = Step("execute", "process", SpanKind.CONSUMER, "task.execute")
STEPS = {step.name: step for step in (SUBMIT, DISPATCH, EXECUTE)}


def span_name(naming: Naming, step: Step, *, task: str, queue: str, system_name: str) -> str:
    """Name a span of `step`; `system_name` is its name in the articles' vocabulary."""
    if naming == "system":
        return system_name
    return f"{step.name} {queue if naming == 'messaging' else task}"


def transport_attribute(system: str) -> str:
    """Return the name under which spans say what carries the tasks: `redis`, say."""
    return f"{system}.transport"


def status_attribute(naming: Naming) -> str:
    """Return the attribute that holds the outcome; the articles call it `status`."""
    return "status" if naming == "system" else TASK_STATUS


class Metric(NamedTuple):
    """One metric in three vocabularies; its name is empty where a vocabulary has no such metric."""

    key: str
    """Our own name for it, the same in every vocabulary."""
    task: str
    system: str
    messaging: str
    unit: str
    description: str

    def name(self, naming: Naming, system: str) -> str:
        """Return the metric's name; empty if the vocabulary has none."""
        if naming == "system":
            return self.system and f"{system}.{self.system}"
        return self.task if naming == "task" else self.messaging

    def unit_in(self, naming: Naming) -> str:
        """Return the unit; the conventions count messages where we count tasks."""
        return "{message}" if naming == "messaging" and self.unit == "{task}" else self.unit


SUBMITTED = Metric(
    "submitted",
    "task.submitted",
    "tasks.submitted",
    "messaging.client.sent.messages",
    "{task}",
    "Tasks handed over to a queue",
)
DISPATCHED = Metric(
    "dispatched",
    "task.dispatched",
    "tasks.dispatched",
    "messaging.client.consumed.messages",
    "{task}",
    "Attempts that workers took from a queue",
)
COMPLETED = Metric(
    "completed",
    "task.completed",
    "tasks.completed",
    "",
    "{task}",
    "Tasks that ended for good, by status",
)
RETRIED = Metric(
    "retried", "task.retried", "tasks.retried", "", "{task}", "Attempts that will be tried again"
)
DURATION = Metric(
    "duration",
    "task.duration",
    "tasks.duration",
    "messaging.process.duration",
    "s",
    "Time that an attempt took, by status",
)
WAIT = Metric(
    "wait",
    "task.wait",
    "tasks.wait",
    "",
    "s",
    "Time in the queue before an attempt, beyond planned delay",
)
SUBMIT_DURATION = Metric(
    "submit_duration",
    "",
    "",
    "messaging.client.operation.duration",
    "s",
    "Time that a submit took",
)
WORKERS = Metric(
    "workers",
    "task.workers.active",
    "workers.active",
    "",
    "{worker}",
    "Workers connected and able to run tasks, busy or not",
)
BUSY = Metric(
    "busy", "task.workers.busy", "workers.busy", "", "{worker}", "Workers that run a task now"
)
DEPTH = Metric(
    "depth", "task.queue.depth", "queue.depth", "", "{task}", "Tasks that wait ready at the broker"
)
DELAYED = Metric(
    "delayed",
    "task.queue.delayed",
    "queue.delayed",
    "",
    "{task}",
    "Tasks that are not ready yet: they wait for their time, or for other tasks",
)
DEAD = Metric(
    "dead",
    "task.queue.dead",
    "queue.dead",
    "",
    "{task}",
    "Tasks that failed for good and are kept: dead letters, failed jobs",
)
OLDEST = Metric(
    "oldest",
    "task.oldest",
    "tasks.oldest",
    "",
    "s",
    "Time that the oldest ready task has waited; 0 if none waits",
)

COUNTERS = (SUBMITTED, DISPATCHED, COMPLETED, RETRIED)
RECORDED = {metric.key: metric for metric in (*COUNTERS, DURATION, WAIT, SUBMIT_DURATION)}
"""The metrics that are recorded for each task, by key."""
READ_WITH = {WORKERS: (WORKERS, BUSY), DEPTH: (DEPTH, DELAYED, DEAD, OLDEST)}
"""The metrics that are read at each export: one reading of the first brings the others."""
HELD_BY_WORKERS = "celery"
"""The system whose workers hold delayed tasks themselves: what they report adds up. Of any other
every worker reports the same queue."""
HELD_BY_BROKER = "celery_delayed"
"""The one destination of this system whose delayed tasks the broker holds (RabbitMQ)."""
GAUGES = (*READ_WITH[WORKERS], *READ_WITH[DEPTH])
OVERFLOW = "otel.metric.overflow"
"""Marks the data point of all that is past the limit; named by the metrics SDK specification."""

BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
    *(30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0),
)
"""The histograms' bucket bounds, in seconds: those of the conventions, continued to an hour."""
