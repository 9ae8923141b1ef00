"""Requests of OTLP, decoded from what their senders wrote: protobuf or JSON, compressed or not."""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64encode
from binascii import unhexlify
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf.json_format import (  # type: ignore[import-untyped]
    MessageToJson,
    ParseDict,
)
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Status

if TYPE_CHECKING:
    from collections.abc import Mapping
    from email.message import Message
    from io import BufferedIOBase

Request: TypeAlias = (
    ExportTraceServiceRequest | ExportMetricsServiceRequest | ExportLogsServiceRequest
)
Response: TypeAlias = (
    ExportTraceServiceResponse | ExportMetricsServiceResponse | ExportLogsServiceResponse
)

LIMIT = 64 * 2**20
"""The most bytes that a request may have, uncompressed."""

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

_SERVICES: tuple[tuple[tuple[str, str], type[Request], type[Response]], ...] = (
    (
        ("/v1/traces", "/opentelemetry.proto.collector.trace.v1.TraceService/Export"),
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    ),
    (
        ("/v1/metrics", "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"),
        ExportMetricsServiceRequest,
        ExportMetricsServiceResponse,
    ),
    (
        ("/v1/logs", "/opentelemetry.proto.collector.logs.v1.LogsService/Export"),
        ExportLogsServiceRequest,
        ExportLogsServiceResponse,
    ),
)
PATHS: Mapping[str, type[Request]] = MappingProxyType(
    {http: request for (http, _), request, _ in _SERVICES}
)
"""What to send a POST to over HTTP, and the request that its body is."""
GRPC_PATHS: Mapping[str, type[Request]] = MappingProxyType(
    {grpc: request for (_, grpc), request, _ in _SERVICES}
)
"""Likewise over gRPC."""
_RESPONSES = {path: response for paths, _, response in _SERVICES for path in paths}

_MEMBERS = 100  # gzip may have several; every one costs a copy of the rest
_LINE = 2**12  # as long as a line between chunks may be
_IDS = {"trace_id", "span_id", "parent_span_id"}
_WITHOUT_IDS = {"AnyValue", "InstrumentationScope", "KeyValue", "Resource"}


class BadRequest(ValueError):  # noqa: N818 - HTTP's name for it
    """The text is the reason, in one sentence, without anything of the payload."""


class TooLarge(BadRequest):
    """What was sent, or what it inflates to, has more bytes than the limit."""


def decode(
    path: str,
    body: bytes,
    *,
    content_type: str = PROTOBUF,
    encoding: str = "identity",
    limit: int = LIMIT,
) -> Request:
    """Return the request that was sent to `path`, one of `PATHS` or `GRPC_PATHS`.

    `content_type` and `encoding` are the values of the HTTP headers. A request may have `limit`
    bytes uncompressed. Raises `BadRequest`, whatever is wrong.
    """
    message = PATHS.get(path) or GRPC_PATHS.get(path)
    if message is None:
        raise BadRequest("this path takes no telemetry")
    kind = _media_type(content_type)
    if kind not in (PROTOBUF, "application/protobuf", JSON):
        raise BadRequest(f"the content type is neither {PROTOBUF} nor {JSON}")
    content = decompress(body, encoding, limit)
    if kind == JSON:
        return _from_json(message, content)
    try:
        request: Request = message.FromString(content)
    except DecodeError:
        raise BadRequest(f"the body is not an {message.DESCRIPTOR.name} in protobuf") from None
    return request


def encode(path: str, content_type: str = PROTOBUF) -> bytes:
    """Return the response to a request that was accepted, in the same content type."""
    response = _RESPONSES[path]()
    if answer_type(content_type) == JSON:
        return str(MessageToJson(response)).encode()
    return bytes(response.SerializeToString())


def answer_type(content_type: str) -> str:
    """Return the content type of the response to a request with this one."""
    return JSON if _media_type(content_type) == JSON else PROTOBUF


def refusal(reason: str, content_type: str = PROTOBUF) -> bytes:
    """Return the response to a request that was refused: a `google.rpc.Status`."""
    if answer_type(content_type) == JSON:
        return json.dumps({"message": reason}).encode()
    # A span's Status has its message where google.rpc's has it, which is in a package that we do
    # not need otherwise.
    return bytes(Status(message=reason).SerializeToString())


def read_body(stream: BufferedIOBase, headers: Message, limit: int = LIMIT) -> bytes:
    """Read the body of an HTTP/1.1 request, at most `limit` bytes.

    Node's and Java's exporters send chunks when they compress. Raises `BadRequest`; the connection
    must be closed then, for part of the body may be unread.
    """
    match headers.get("Transfer-Encoding", "identity").strip().lower():
        case "identity":
            return _read(stream, headers.get("Content-Length", "0"), 10, limit)
        case "chunked":
            body = bytearray()
            while chunk := _read_chunk(stream, limit - len(body)):
                body += chunk
            while stream.readline(_LINE).strip():
                """Trailers say nothing about telemetry."""
            return bytes(body)
    raise BadRequest("the transfer encoding is not chunked")


def _read_chunk(stream: BufferedIOBase, limit: int) -> bytes:
    size = stream.readline(_LINE).partition(b";")[0].decode("latin-1")
    chunk = _read(stream, size, 16, limit)
    if chunk and stream.readline(_LINE).strip():
        raise BadRequest("a chunk of the body is longer than it says")
    return chunk


def _read(stream: BufferedIOBase, size: str, radix: int, limit: int) -> bytes:
    try:
        count = int(size, radix)
    except ValueError:
        count = -1
    if count < 0:
        raise BadRequest("the length of the body is not a number")
    if count > limit:
        raise TooLarge("the body is too large")
    data = stream.read(count)
    if len(data) < count:
        raise BadRequest("the body is cut off")
    return data


def decompress(data: bytes, encoding: str, limit: int = LIMIT) -> bytes:
    """Undo `encoding`: identity, gzip or deflate (zlib or raw). Raises `BadRequest`."""
    match encoding.strip().lower():
        case "identity" | "":
            if len(data) > limit:
                raise TooLarge(_too_large(limit))
            return data
        case "gzip" | "x-gzip":
            forms = [16 + zlib.MAX_WBITS]
        case "deflate":  # zlib's, says HTTP; some clients leave zlib's header out
            forms = [zlib.MAX_WBITS, -zlib.MAX_WBITS]
        case _:
            raise BadRequest("the encoding is none of gzip, deflate and identity")
    for form in forms:
        with suppress(zlib.error):
            return _inflate(data, form, limit)
    raise BadRequest("the body is not compressed as its encoding says")


def _inflate(data: bytes, form: int, limit: int) -> bytes:
    content = bytearray()
    for _ in range(_MEMBERS):
        stream = zlib.decompressobj(form)
        content += stream.decompress(data, limit + 1 - len(content))
        if len(content) > limit:
            raise TooLarge(_too_large(limit))
        if not stream.eof:
            raise BadRequest("the compressed body is cut off")
        data = stream.unused_data.lstrip(b"\0")
        if not data:
            return bytes(content)
    raise BadRequest("the compressed body has too many parts")


def _too_large(limit: int) -> str:
    return f"the body is larger than {limit / 2**20:g} MiB"


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _from_json(message: type[Request], content: bytes) -> Request:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise BadRequest(f"the body is not JSON{place}") from None
    if not isinstance(document, dict):
        raise BadRequest("the body is not a JSON object")
    _ids_to_base64(document, message.DESCRIPTOR)
    try:
        request: Request = ParseDict(document, message(), ignore_unknown_fields=True)
    except Exception as error:  # noqa: BLE001 - odd JSON makes it raise much besides ParseError
        # The text quotes the payload; only the names of fields in front of that are OTLP's own.
        fields = re.match(r"(?:Failed to parse \w+ field: )*", str(error))
        place = ".".join(re.findall(r"parse (\w+)", fields[0])) if fields else ""
        raise BadRequest(
            f"the JSON is not an {message.DESCRIPTOR.name}" + (f": see {place}" if place else "")
        ) from None
    return request


def _ids_to_base64(entry: dict[str, Any], descriptor: Any) -> None:
    """Write the ids, which OTLP has in hex, as protobuf's JSON has them."""
    for name, value in entry.items():
        field = descriptor.fields_by_camelcase_name.get(name) or descriptor.fields_by_name.get(name)
        if field is None:
            continue
        if field.name in _IDS and isinstance(value, str):
            try:
                entry[name] = b64encode(unhexlify(value)).decode()
            except ValueError:
                raise BadRequest(f"{field.camelcase_name} is not in hex") from None
        elif field.message_type and field.message_type.name not in _WITHOUT_IDS:
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, dict):
                    _ids_to_base64(child, field.message_type)
