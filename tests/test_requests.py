"""Requests are decoded from what senders write, and nothing that they write does harm."""

import gzip
import json
import tracemalloc
import zlib
from base64 import b64decode
from contextlib import suppress

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import (
    AnyValue,
    ArrayValue,
    KeyValue,
    KeyValueList,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    Exemplar,
    Gauge,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from otel_queue_bridge.otlp import read_logs, read_points, read_spans
from otel_queue_bridge.otlp.requests import (
    GRPC_PATHS,
    JSON,
    PATHS,
    BadRequest,
    decode,
    encode,
)

TRACES, METRICS, LOGS = "/v1/traces", "/v1/metrics", "/v1/logs"
SMALL = ExportTraceServiceRequest(
    resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[Span(name="one" * 100)])])]
)
# The machine may be busy: no example is too slow.
PATIENT = settings(deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
numbers = st.integers(-(2**63), 2**63 - 1)
times = st.integers(0, 2**64 - 1)
trace_ids = st.binary(min_size=16, max_size=16)
span_ids = st.binary(min_size=8, max_size=8)
values = st.recursive(
    st.one_of(
        texts.map(lambda value: AnyValue(string_value=value)),
        numbers.map(lambda value: AnyValue(int_value=value)),
        st.floats(allow_nan=False).map(lambda value: AnyValue(double_value=value)),
        st.booleans().map(lambda value: AnyValue(bool_value=value)),
        st.binary(max_size=8).map(lambda value: AnyValue(bytes_value=value)),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(
            lambda several: AnyValue(array_value=ArrayValue(values=several))
        ),
        st.dictionaries(texts, inner, max_size=2).map(
            lambda pairs: AnyValue(
                kvlist_value=KeyValueList(
                    values=[KeyValue(key=key, value=value) for key, value in pairs.items()]
                )
            )
        ),
    ),
    max_leaves=3,
)
keys = st.one_of(texts, st.sampled_from(["traceId", "spanId", "parentSpanId"]))
attributes = st.lists(st.builds(KeyValue, key=keys, value=values), max_size=2)
resources = st.builds(Resource, attributes=attributes)
spans = st.builds(
    Span,
    trace_id=trace_ids,
    span_id=span_ids,
    parent_span_id=span_ids | st.just(b""),
    name=texts,
    kind=st.integers(0, 5),
    start_time_unix_nano=times,
    attributes=attributes,
    links=st.lists(
        st.builds(Span.Link, trace_id=trace_ids, span_id=span_ids, attributes=attributes),
        max_size=2,
    ),
    events=st.lists(st.builds(Span.Event, name=texts, attributes=attributes), max_size=2),
    status=st.builds(Status, code=st.integers(0, 2), message=texts),
)
logs = st.builds(
    LogRecord,
    trace_id=trace_ids,
    span_id=span_ids,
    time_unix_nano=times,
    severity_number=st.integers(0, 24),
    body=values,
    attributes=attributes,
)
points = st.builds(
    NumberDataPoint,
    as_int=numbers,
    attributes=attributes,
    exemplars=st.lists(
        st.builds(Exemplar, trace_id=trace_ids, span_id=span_ids, filtered_attributes=attributes),
        max_size=1,
    ),
)
exported = st.one_of(
    st.tuples(
        st.just(TRACES),
        st.builds(
            lambda resource, spans: ExportTraceServiceRequest(
                resource_spans=[
                    ResourceSpans(resource=resource, scope_spans=[ScopeSpans(spans=spans)])
                ]
            ),
            resources,
            st.lists(spans, max_size=2),
        ),
    ),
    st.tuples(
        st.just(METRICS),
        st.builds(
            lambda points: ExportMetricsServiceRequest(
                resource_metrics=[
                    ResourceMetrics(
                        scope_metrics=[
                            ScopeMetrics(
                                metrics=[Metric(name="depth", gauge=Gauge(data_points=points))]
                            )
                        ]
                    )
                ]
            ),
            st.lists(points, max_size=2),
        ),
    ),
    st.tuples(
        st.just(LOGS),
        st.builds(
            lambda logs: ExportLogsServiceRequest(
                resource_logs=[ResourceLogs(scope_logs=[ScopeLogs(log_records=logs)])]
            ),
            st.lists(logs, max_size=2),
        ),
    ),
)


def as_json(request, *, enum_names=False, numbers=False) -> bytes:
    """Write OTLP's JSON by other means than those under test."""

    def walk(entry):
        if isinstance(entry, list):
            return [walk(item) for item in entry]
        if not isinstance(entry, dict):
            return entry
        written = {}
        for name, value in entry.items():
            if name in {"traceId", "spanId", "parentSpanId"}:
                written[name] = b64decode(value).hex()
            elif numbers and (name.endswith("UnixNano") or name in {"intValue", "asInt"}):
                written[name] = int(value)
            else:
                written[name] = walk(value)
        return written

    return json.dumps(walk(MessageToDict(request, use_integers_for_enums=not enum_names))).encode()


@PATIENT
@given(exported, st.booleans(), st.booleans())
def test_json_says_the_same_as_protobuf(sent, enum_names, numbers):
    path, request = sent
    body = as_json(request, enum_names=enum_names, numbers=numbers)
    assert decode(path, body, content_type=JSON) == request
    assert decode(path, request.SerializeToString()) == request


def broken(draw, body: bytes) -> bytes:
    at = draw(st.integers(0, len(body)))
    return body[:at] + draw(st.binary(max_size=4)) + body[at + draw(st.integers(0, 4)) :]


@st.composite
def damaged(draw) -> tuple[str, bytes, str, str]:
    """A request with a few bytes changed, or any bytes at all."""
    path, request = draw(exported)
    kind = draw(st.sampled_from([JSON, "application/x-protobuf"]))
    body = as_json(request) if kind == JSON else request.SerializeToString()
    body = broken(draw, body) if draw(st.booleans()) else draw(st.binary(max_size=64))
    encoding = draw(st.sampled_from(["identity", "gzip", "deflate"]))
    if encoding != "identity" and draw(st.booleans()):
        body = broken(draw, gzip.compress(body) if encoding == "gzip" else zlib.compress(body))
    return path, body, kind, encoding


trees = st.recursive(
    st.none() | st.booleans() | numbers | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                [
                    "resourceSpans",
                    "scopeSpans",
                    "spans",
                    "links",
                    "traceId",
                    "kind",
                    "attributes",
                    "key",
                    "value",
                    "stringValue",
                    "intValue",
                    "startTimeUnixNano",
                    "other",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
)


def read_all(request):
    readers = {
        ExportTraceServiceRequest: read_spans,
        ExportMetricsServiceRequest: read_points,
        ExportLogsServiceRequest: read_logs,
    }
    return list(readers[type(request)](request))


@PATIENT
@given(damaged())
def test_whatever_arrives_is_decoded_and_readable_or_bad(request_):
    path, body, kind, encoding = request_
    try:
        request = decode(path, body, content_type=kind, encoding=encoding, limit=2**16)
    except BadRequest:
        return
    read_all(request)


@PATIENT
@given(trees)
def test_json_of_another_shape_is_bad_at_worst(tree):
    with suppress(BadRequest):
        decode(TRACES, json.dumps({"resourceSpans": tree}).encode(), content_type=JSON)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "the body is not JSON at character 0"),
        (b"[1]", "the body is not a JSON object"),
        (b'{"a": "\xff"}', "the body is not JSON"),
        (b'{"a":' * 100_000, "the body is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "the body is not JSON"),
        (
            b'{"resourceSpans": {}}',
            "the JSON is not an ExportTraceServiceRequest: see resourceSpans",
        ),
        (
            b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":"secret"}]}]}]}',
            (
                "the JSON is not an ExportTraceServiceRequest: "
                "see resourceSpans.scopeSpans.spans.startTimeUnixNano"
            ),
        ),
        (
            b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"secret+/=="}]}]}]}',
            "traceId is not in hex",
        ),
    ],
)
def test_bad_json_is_refused_with_the_place(body, reason):
    with pytest.raises(BadRequest) as caught:
        decode(TRACES, body, content_type=JSON)
    assert str(caught.value) == reason


def test_json_that_is_newer_than_we_are_is_read():
    span = {
        "name": "one",
        "traceId": "5B8EFFF798038103D269B633813FC60C",
        "kind": "SPAN_KIND_OF_TOMORROW",
        "later": {"traceId": 5},
        "attributes": [{"key": "spanId", "value": {"stringValue": "not hex"}}],
    }
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}], "later": [{"spanId": "?"}]}]}
    content_type = "Application/JSON; charset=utf-8"
    (read,) = read_spans(decode(TRACES, json.dumps(body).encode(), content_type=content_type))
    assert read.name == "one"
    assert read.trace_id == "5b8efff798038103d269b633813fc60c"
    assert read.attributes == {"spanId": "not hex"}


def test_enums_of_tomorrow_are_read_as_numbers():
    span = Span(name="one", kind=77, status=Status(code=78))
    request = ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[ScopeSpans(spans=[span])])]
    )
    (read,) = read_spans(decode(TRACES, request.SerializeToString()))
    assert (read.kind, read.status) == ("77", "78")


def raw_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("", bytes),
        ("identity", bytes),
        ("gzip", gzip.compress),
        ("GZIP ", gzip.compress),
        ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
        ("deflate", zlib.compress),
        ("deflate", raw_deflate),
    ],
)
def test_every_encoding_and_its_limit(encoding, compress):
    body = SMALL.SerializeToString()
    sent = compress(body)
    assert decode(TRACES, sent, encoding=encoding, limit=len(body)) == SMALL
    with pytest.raises(BadRequest, match="the body is larger than"):
        decode(TRACES, sent, encoding=encoding, limit=len(body) - 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_not_inflated(encoding):
    bomb = (gzip.compress if encoding == "gzip" else zlib.compress)(bytes(2**26))
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match="larger than 1 MiB"):
            decode(TRACES, bomb, encoding=encoding, limit=2**20)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_body_of_countless_parts_is_refused_early():
    with pytest.raises(BadRequest, match="too many parts"):
        decode(TRACES, gzip.compress(b"") * 2**18, encoding="gzip")


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("/v2/traces", {}, "this path takes no telemetry"),
        (TRACES, {"content_type": "text/plain"}, "the content type is neither"),
        (TRACES, {"content_type": ""}, "the content type is neither"),  # a page may send that
        (TRACES, {"encoding": "br"}, "the encoding is none of gzip, deflate and identity"),
        (TRACES, {"encoding": "gzip"}, "the body is not compressed as its encoding says"),
        (TRACES, {"encoding": "deflate"}, "the body is not compressed as its encoding says"),
        (TRACES, {}, "the body is not an ExportTraceServiceRequest in protobuf"),
    ],
)
def test_bad_requests_say_why_and_quote_nothing(path, options, reason):
    with pytest.raises(BadRequest, match=reason) as caught:
        decode(path, b"a secret", **options)
    assert "secret" not in str(caught.value)


def test_a_compressed_body_that_is_cut_off_says_so():
    with pytest.raises(BadRequest, match="the compressed body is cut off"):
        decode(TRACES, gzip.compress(b"a secret")[:-4], encoding="gzip")


def test_the_paths_of_both_protocols_lead_to_the_same_requests():
    assert list(PATHS) == [TRACES, METRICS, LOGS]
    assert list(PATHS.values()) == list(GRPC_PATHS.values())
    for path in (*PATHS, *GRPC_PATHS):
        assert encode(path) == b""
        assert json.loads(encode(path, "application/json; charset=utf-8")) == {}


def test_logs_are_read():
    record = LogRecord(
        time_unix_nano=5,
        severity_number=13,
        body=AnyValue(string_value="gone"),
        trace_id=b"\1" * 16,
        span_id=b"\2" * 8,
        attributes=[KeyValue(key="order", value=AnyValue(int_value=3))],
    )
    late = LogRecord(
        observed_time_unix_nano=6,
        severity_text="warning",
        severity_number=13,
        body=AnyValue(array_value=ArrayValue(values=[AnyValue(string_value="é")])),
    )
    resource = Resource(
        attributes=[KeyValue(key="service.name", value=AnyValue(string_value="shop"))]
    )
    request = ExportLogsServiceRequest(
        resource_logs=[
            ResourceLogs(
                resource=resource,
                scope_logs=[ScopeLogs(log_records=[record, late, LogRecord()])],
            )
        ]
    )
    first, second, empty = read_logs(request)
    assert (first.time, first.severity, first.body, first.service) == (5, "WARN", "gone", "shop")
    assert (first.trace_id, first.span_id) == ("01" * 16, "02" * 8)
    assert first.attributes == {"order": 3}
    assert (second.time, second.severity, second.body) == (6, "warning", '["é"]')
    assert (second.trace_id, second.attributes) == ("", {})
    assert (empty.severity, empty.body) == ("", "")
