"""Every attribute, span and metric name: the three vocabularies.

Messaging attributes follow OpenTelemetry's semantic conventions 1.44.0 (Development).
`task.*` is ours: the conventions have nothing for task queues yet.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from opentelemetry.trace import SpanKind

SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

Naming = Literal["task", "system", "messaging"]

MESSAGING_SYSTEM = "messaging.system"
MESSAGING_OPERATION_NAME = "messaging.operation.name"
MESSAGING_OPERATION_TYPE = "messaging.operation.type"
MESSAGING_DESTINATION_NAME = "messaging.destination.name"
MESSAGING_MESSAGE_ID = "messaging.message.id"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"
EXCEPTION_STACKTRACE = "exception.stacktrace"

TASK_NAME = "task.name"
TASK_ATTEMPT = "task.attempt"
TASK_PRIORITY = "task.priority"
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
    """The part behind `{system}.` in the articles' span names."""


SUBMIT = Step("submit", "send", SpanKind.PRODUCER, "client.submit")
DISPATCH = Step("dispatch", "receive", SpanKind.CLIENT, "worker.dispatch")
EXECUTE = Step("execute", "process", SpanKind.CONSUMER, "task.execute")


def span_name(naming: Naming, step: Step, *, task: str, queue: str, system_name: str) -> str:
    """Name a span of `step`; `system_name` is its name in the articles' vocabulary."""
    if naming == "system":
        return system_name
    return f"{step.name} {queue if naming == 'messaging' else task}"


def status_attribute(naming: Naming) -> str:
    """Return the attribute that holds the outcome; the articles call it `status`."""
    return "status" if naming == "system" else TASK_STATUS
