"""Names are a promise to dashboards: those of OpenTelemetry are its own, ours are the README's."""

import pytest
from opentelemetry.semconv import schemas
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.semconv.attributes import (
    error_attributes,
    exception_attributes,
    server_attributes,
)
from opentelemetry.trace import SpanKind

from otel_queue_bridge import semconv
from otel_queue_bridge.semconv import DISPATCH, EXECUTE, SUBMIT, span_name, status_attribute

NAMES = [
    ("task", "submit mail.send", "dispatch mail.send", "execute mail.send"),
    ("system", "celery.client.submit", "celery.worker.dispatch", "celery.task.execute"),
    ("messaging", "submit low", "dispatch low", "execute low"),
]


@pytest.mark.parametrize(("naming", "submit", "dispatch", "execute"), NAMES)
def test_span_names_in_every_vocabulary(naming, submit, dispatch, execute):
    for step, expected in [(SUBMIT, submit), (DISPATCH, dispatch), (EXECUTE, execute)]:
        system_name = f"celery.{step.system_name}"
        name = span_name(naming, step, task="mail.send", queue="low", system_name=system_name)
        assert name == expected


@pytest.mark.parametrize(
    ("step", "kind", "operation_type"),
    [
        (SUBMIT, SpanKind.PRODUCER, messaging_attributes.MessagingOperationTypeValues.SEND),
        (DISPATCH, SpanKind.CLIENT, messaging_attributes.MessagingOperationTypeValues.RECEIVE),
        (EXECUTE, SpanKind.CONSUMER, messaging_attributes.MessagingOperationTypeValues.PROCESS),
    ],
)
def test_kinds_and_types_are_the_conventions(step, kind, operation_type):
    assert (step.kind, step.type) == (kind, operation_type.value)


@pytest.mark.parametrize(
    "theirs", [messaging_attributes, server_attributes, error_attributes, exception_attributes]
)
def test_the_conventions_attributes_are_spelt_as_theirs(theirs):
    shared = {name for name in vars(semconv) if name.isupper()} & vars(theirs).keys()
    assert shared
    for name in shared:
        assert getattr(semconv, name) == getattr(theirs, name)


def test_the_status_is_called_as_in_the_articles_under_their_names_only():
    assert [status_attribute(naming) for naming, *_ in NAMES] == [
        "task.status",
        "status",
        "task.status",
    ]


def test_the_schema_is_a_published_kind_of_address():
    known = schemas.Schemas.V1_25_0.value
    assert semconv.SCHEMA_URL.rpartition("/")[0] == known.rpartition("/")[0]
    assert semconv.SCHEMA_URL.endswith("/1.44.0")
