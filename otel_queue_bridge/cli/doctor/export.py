"""Check where OpenTelemetry's variables send spans and metrics, and whether they can get there."""

from __future__ import annotations

import socket
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from otel_queue_bridge.cli.doctor import probe
from otel_queue_bridge.cli.doctor.findings import ok, problem, warning
from otel_queue_bridge.cli.doctor.versions import installed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_queue_bridge.cli.doctor.findings import Finding

GRPC, HTTP = "otlp_proto_grpc", "otlp_proto_http"
_PROTOCOLS = {"grpc": GRPC, "http/protobuf": HTTP}
_PORTS = {GRPC: 4317, HTTP: 4318}
_PACKAGES = {
    GRPC: "opentelemetry-exporter-otlp-proto-grpc",
    HTTP: "opentelemetry-exporter-otlp-proto-http",
    "prometheus": "opentelemetry-exporter-prometheus",
    "zipkin": "opentelemetry-exporter-zipkin-json",
}
_SIGNALS = ("traces", "metrics", "logs")
_PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_UNNAMED = "unknown_service"
"""What OpenTelemetry's SDKs call a service that has no name; some add the program after a colon."""
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
CONNECT_LIMIT = 1.0
"""Seconds allowed to connect."""


class Export(NamedTuple):
    """How the SDK will export one signal, or several in the same way."""

    asked: str
    """The name in OTEL_*_EXPORTER."""
    exporter: str
    """The name of the entry point that the SDK will look up; empty if it refuses the protocol."""
    protocol: str
    protocol_variable: str
    missing: bool
    """Whether no installed package provides that entry point."""


class Destination(NamedTuple):
    """Where one or more signals are sent by OTLP."""

    exporter: str
    endpoint: str
    variable: str
    """The variable to set for another endpoint."""


def findings(environment: Mapping[str, str], *, send_span: bool) -> Iterator[Finding]:
    if "OTEL_CONFIG_FILE" in environment:
        yield _declarative(environment["OTEL_CONFIG_FILE"])
        return
    exports: dict[Export, list[str]] = {}
    for signal in _SIGNALS:
        chosen = list(_exports(signal, environment))
        for export in chosen:
            exports.setdefault(export, []).append(signal)
        if not chosen and signal != "logs":
            yield _silent(signal, environment)
    yield _service(environment)
    destinations: dict[Destination, list[str]] = {}
    for export, signals in exports.items():
        if export.missing:
            yield _unavailable(export, signals)
            continue
        yield _available(export.exporter, signals)
        for signal in signals if export.exporter in _PORTS else ():
            destination = _destination(export.exporter, signal, environment)
            destinations.setdefault(destination, []).append(signal)
    for destination, signals in destinations.items():
        yield from _reached(destination, signals, environment, send_span=send_span)
    if send_span and not any("traces" in signals for signals in destinations.values()):
        yield ok("no span was sent: traces have no OTLP exporter that could be used")


def _reached(
    destination: Destination, signals: list[str], environment: Mapping[str, str], *, send_span: bool
) -> Iterator[Finding]:
    sound = True
    for finding in _examined(destination, signals):
        sound &= finding.level != "problem"
        yield finding
    if send_span and "traces" in signals:
        yield (
            probe.send(destination.exporter, environment)
            if sound
            else ok("no span was sent: fix the endpoint first")
        )


def _exports(signal: str, environment: Mapping[str, str]) -> Iterator[Export]:
    """Read the variables as the SDK does."""
    names = environment.get(_exporter_variable(signal), _default(environment)).strip()
    variable = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
    if variable not in environment:
        variable = _PROTOCOL
    protocol = environment.get(variable, "grpc").strip()
    for asked in names.split(",") if names and names.lower() != "none" else ():
        name = asked.strip()
        exporter = _PROTOCOLS.get(protocol, "") if name == "otlp" else name
        yield Export(name, exporter, protocol, variable, exporter not in _installed(signal))


def _installed(signal: str) -> list[str]:
    return sorted(point.name for point in entry_points(group=f"opentelemetry_{signal}_exporter"))


def _exporter_variable(signal: str) -> str:
    return f"OTEL_{signal.upper()}_EXPORTER"


def _default(environment: Mapping[str, str]) -> str:
    """Return the exporter that `opentelemetry-instrument` uses if no variable names one."""
    for point in entry_points(group="opentelemetry_distro"):
        if point.value.startswith("opentelemetry.distro:"):
            return "otlp" if environment.get("OTEL_PYTHON_DISTRO", point.name) == point.name else ""
    return ""


def _silent(signal: str, environment: Mapping[str, str]) -> Finding:
    variable = _exporter_variable(signal)
    if variable not in environment:
        return warning(
            f"{variable} is not set: {signal} are exported only if your code configures that",
            f"export {variable}=otlp",
        )
    message = f"{variable}=none: {signal} are not exported"
    return warning(message, f"export {variable}=otlp") if signal == "traces" else ok(message)


def _unavailable(export: Export, signals: list[str]) -> Finding:
    stops = "the SDK does not start, and opentelemetry-instrument instruments nothing"
    variable = _exporter_variable(signals[0])
    if not export.exporter:
        return problem(
            f"{export.protocol_variable}={export.protocol} is not supported: {stops}",
            f"export {export.protocol_variable}=http/protobuf",
        )
    known = _installed(signals[0])
    if export.asked == "otlp" and export.exporter == GRPC and HTTP in known:
        return problem(
            f"{variable}=otlp (its default, too) means gRPC for {_listed(signals)}, "
            f"but only the HTTP exporter is installed: {stops}",
            f"export {export.protocol_variable}=http/protobuf",
        )
    package = _PACKAGES.get(export.exporter)
    return problem(
        f"the exporter {export.exporter} for {_listed(signals)} is not installed: {stops}",
        f"pip install {package}"
        if package
        else f"set {variable} to one of {', '.join(['none', 'otlp', *known])}",
    )


def _available(exporter: str, signals: list[str]) -> Finding:
    if exporter != "prometheus":
        return ok(f"{_listed(signals)}: {exporter}", exporter=exporter)
    return warning(
        f"{_listed(signals)}: prometheus serves the main process alone, so workers of several "
        "processes (dramatiq, rq worker-pool) show no tasks",
        "export OTEL_METRICS_EXPORTER=otlp, or a port for each process: see docs/prometheus.md",
        exporter=exporter,
    )


def _listed(signals: list[str]) -> str:
    return ", ".join(signals)


def _destination(exporter: str, signal: str, environment: Mapping[str, str]) -> Destination:
    variable = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT"
    if variable not in environment:
        variable = _ENDPOINT
    endpoint = environment.get(variable, f"http://localhost:{_PORTS[exporter]}")
    return Destination(exporter, endpoint.strip(), variable)


def _examined(destination: Destination, signals: list[str]) -> Iterator[Finding]:
    exporter, endpoint, variable = destination
    example = f"export {variable}=http://localhost:{_PORTS[exporter]}"
    try:
        url = urlsplit(endpoint if "://" in endpoint or exporter == HTTP else f"//{endpoint}")
        port = url.port or (443 if url.scheme == "https" else 80)
    except ValueError as error:
        yield problem(f"{variable}={endpoint} is not a URL: {error}", example)
        return
    if exporter == HTTP and (url.scheme not in {"http", "https"} or not url.hostname):
        yield problem(
            f"{variable}={endpoint} is not a URL that begins with http:// or https://", example
        )
        return
    if exporter == HTTP:
        yield from _path(variable, url, signals)
    yield from _port(destination, url)
    yield connection(exporter, url, port, signals)


def _path(variable: str, url: SplitResult, signals: list[str]) -> Iterator[Finding]:
    path = url.path.rstrip("/")
    base = next((path.removesuffix(end) for end in _paths(_SIGNALS) if path.endswith(end)), None)
    if variable == _ENDPOINT and base is not None:
        yield problem(
            f"{variable}={url.geturl()} is the base, to which the exporter adds /v1/{signals[0]}",
            f"export {variable}={url._replace(path=base).geturl()}",
        )
    elif variable != _ENDPOINT and not path:
        (wanted,) = _paths(signals)
        yield warning(
            f"{variable}={url.geturl()} is used as it is, and has no path",
            f"export {variable}={url._replace(path=wanted).geturl()}",
        )


def _paths(signals: tuple[str, ...] | list[str]) -> list[str]:
    return [f"/v1/{signal}" for signal in signals]


def _port(destination: Destination, url: SplitResult) -> Iterator[Finding]:
    exporter, _, variable = destination
    other = HTTP if exporter == GRPC else GRPC
    if url.port != _PORTS[other]:
        return
    names = {GRPC: "gRPC", HTTP: "HTTP"}
    right = url.netloc.removesuffix(str(url.port)) + str(_PORTS[exporter])
    protocol = next(protocol for protocol, name in _PROTOCOLS.items() if name == other)
    yield problem(
        f"port {url.port} is that of {names[other]}, but the exporter speaks {names[exporter]}",
        f"export {variable}={url._replace(netloc=right).geturl().removeprefix('//')}"
        f" or {variable.replace('ENDPOINT', 'PROTOCOL')}={protocol}",
    )


def connection(exporter: str, url: SplitResult, port: int, signals: list[str]) -> Finding:
    host = url.hostname or "localhost"
    place = f"{host}:{port}"
    who = _listed(signals)
    proxy = getproxies().get(url.scheme)
    if proxy and not proxy_bypass(host):
        return ok(f"{who} go to {place} through the proxy {proxy}", "to try it: doctor --probe")
    try:
        socket.create_connection((host, port), CONNECT_LIMIT).close()
    except OSError as error:
        return problem(
            f"{who} go to {place}, but nothing answers there: {error.strerror or error}",
            f"{_start(exporter, host, port)}, or name a collector by OTEL_EXPORTER_OTLP_ENDPOINT",
            host=host,
            port=port,
        )
    return ok(f"{who} go to {place}, which accepts connections", host=host, port=port)


def _start(exporter: str, host: str, port: int) -> str:
    if host not in _LOOPBACK:
        return "start a collector there"
    option = "--port" if exporter == HTTP else "--grpc-port"
    shown = "" if port == _PORTS[exporter] else f" {option} {port}"
    return f"to see your traces right here: otel-queue-bridge view{shown}"


def _service(environment: Mapping[str, str]) -> Finding:
    advice = (
        "export OTEL_SERVICE_NAME=shop-web where the web app starts, and OTEL_SERVICE_NAME="
        "shop-worker where the worker does"
    )
    name = environment.get("OTEL_SERVICE_NAME", "").strip()
    for pair in environment.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, _, value = pair.partition("=")
        name = name or (value.strip() if key.strip() == "service.name" else "")
    if not name or name.startswith(_UNNAMED):
        stated = f"is {name}, as if it were not set" if name else "is not set"
        return warning(
            f"OTEL_SERVICE_NAME {stated}: nobody can tell the web app's spans from the worker's",
            advice,
        )
    return ok(f"the service is {name}; every role needs its own name")


def _declarative(file: str) -> Finding:
    if not Path(file).is_file():
        return problem(f"OTEL_CONFIG_FILE={file} is not a file", "unset OTEL_CONFIG_FILE")
    if not installed("opentelemetry-configuration"):
        return problem(
            "OTEL_CONFIG_FILE is set, but its reader is not installed: the SDK does not start",
            "pip install opentelemetry-configuration",
        )
    return ok(f"{file} configures the export, which is not checked; OTEL_*_EXPORTER are not used")
