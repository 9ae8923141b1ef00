"""Check what `opentelemetry-instrument` will load, and what stands in the way."""

from __future__ import annotations

import shutil
import sysconfig
from difflib import get_close_matches
from importlib.metadata import distributions, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from otel_queue_bridge.cli.doctor.findings import ok, problem, warning
from otel_queue_bridge.cli.doctor.versions import installed
from otel_queue_bridge.config import ConfigError, holds, switched_on, unknown_queue

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_queue_bridge.cli.doctor.findings import Finding
    from otel_queue_bridge.cli.doctor.libraries import Library
    from otel_queue_bridge.config import Config

DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
_PREFIX = "queue_bridge_"
_COMMAND = "opentelemetry-instrument"


class Neighbour(NamedTuple):
    """A distribution that also patches queue libraries, and how to keep the two apart."""

    distribution: str
    message: str
    advice: str


_NEIGHBOURS = (
    Neighbour(
        "opentelemetry-instrumentor-dramatiq",
        "records each Dramatiq task a second time",
        "pip uninstall opentelemetry-instrumentor-dramatiq",
    ),
    Neighbour(
        "sentry-sdk",
        "traces Celery, Dramatiq, RQ, Huey and ARQ, too, if its tracing is on",
        "leave one out: sentry_sdk.init(disabled_integrations=[CeleryIntegration()])",
    ),
    Neighbour(
        "ddtrace",
        "patches the same libraries under ddtrace-run",
        "export DD_TRACE_CELERY_ENABLED=false DD_TRACE_DRAMATIQ_ENABLED=false"
        " DD_TRACE_RQ_ENABLED=false",
    ),
)

_OWN = "taskiq"
"""A queue that brings its instrumentation, under this name; we have no adapter for it."""


def disabled(environment: Mapping[str, str]) -> list[str]:
    """Return the names of instrumentations that the user has switched off."""
    names = environment.get(DISABLED, "").split(",")
    return [name.strip() for name in names if name.strip()]


def is_disabled(queue: str, environment: Mapping[str, str]) -> bool:
    return not {f"{_PREFIX}{queue}", "*"}.isdisjoint(disabled(environment))


def findings(
    environment: Mapping[str, str], libraries: list[Library], config: Config
) -> Iterator[Finding]:
    yield _command()
    yield _distro(environment)
    for library in libraries:
        if library.works:
            ours = _ours(library, environment, config)
            yield ours
            if ours.level == "ok":
                yield from _rivals(library, environment, config)
    known = [library.queue for library in libraries]
    for queue in config.queues or ():
        if queue not in known:
            origin = config.origin["queues"]
            near = get_close_matches(queue, known, n=1) or known
            yield problem(
                unknown_queue(queue, known, origin), f"name {' or '.join(near)} in {origin}"
            )
    for distribution, message, advice in _NEIGHBOURS:
        if found := installed(distribution):
            yield warning(f"{distribution} {found} {message}", advice)
    if found := installed(_OWN):
        yield _left_alone(found, environment)
    yield from _twice()


def _left_alone(version: str, environment: Mapping[str, str]) -> Finding:
    shown = f"{_OWN} {version}"
    loaded = entry_points(group="opentelemetry_instrumentor", name=_OWN)
    if not (loaded and installed("psutil")):  # which it imports
        return warning(
            f"{shown} lacks what its own instrumentation needs, and we have none for it",
            f"pip install --upgrade '{_OWN}[opentelemetry]'",
        )
    if not {_OWN, "*"}.isdisjoint(disabled(environment)):
        return warning(
            f"{_OWN}'s own instrumentation is switched off by {DISABLED}={environment[DISABLED]}",
            f"take {_OWN} out of {DISABLED}",
        )
    return ok(f"{shown} brings its own instrumentation, which we leave alone")


def _command() -> Finding:
    own = Path(sysconfig.get_path("scripts"), _COMMAND)
    found = shutil.which(_COMMAND)
    if found and Path(found).resolve() == own.resolve():
        return ok(f"{_COMMAND} on the PATH is that of this environment")
    return warning(
        f"{_COMMAND} on the PATH belongs to another environment: {found}"
        if found
        else f"{_COMMAND} is not on the PATH",
        f"start with {own}",
    )


def _distro(environment: Mapping[str, str]) -> Finding:
    names = {
        point.dist.name if point.dist else point.name
        for point in entry_points(group="opentelemetry_configurator")
    }
    if names:
        return ok(f"the SDK is configured from the environment by {', '.join(sorted(names))}")
    message, advice = "no distro is installed", "pip install opentelemetry-distro"
    if "OTEL_TRACES_EXPORTER" in environment:
        return problem(f"{message}: OTEL_TRACES_EXPORTER has no effect", advice)
    return warning(f"{message}: {_COMMAND} configures no SDK, your code has to", advice)


def _ours(library: Library, environment: Mapping[str, str], config: Config) -> Finding:
    queue, switch = library.queue, library.switch
    name = _PREFIX + queue
    try:
        on = switched_on(switch, environment)
    except ConfigError as error:
        return problem(str(error), f"unset {switch}")
    if on is False:
        return warning(
            f"{queue} is switched off by {switch}={environment[switch]}", f"unset {switch}"
        )
    if is_disabled(queue, environment):
        rest = ",".join(other for other in disabled(environment) if other not in {name, "*"})
        return warning(
            f"{queue} is switched off by {DISABLED}={environment[DISABLED]}",
            f"export {DISABLED}={rest}" if rest else f"unset {DISABLED}",
        )
    if config.queues is not None and queue not in config.queues and not on:
        origin = config.origin.get("queues", "")
        # If the list names another queue, this one is left out on purpose.
        judged = ok if config.queues else warning
        return judged(
            f"{queue} is left out by {origin}={','.join(config.queues)}", f"add {queue} to {origin}"
        )
    if not entry_points(group="opentelemetry_instrumentor", name=name):
        return ok(
            f"{queue}: {_COMMAND} does not load it", f'call otel_queue_bridge.instrument("{queue}")'
        )
    return ok(f"{queue}: {_COMMAND} loads {name}")


def _rivals(library: Library, environment: Mapping[str, str], config: Config) -> Iterator[Finding]:
    off = disabled(environment)
    for point in entry_points(group="opentelemetry_instrumentor"):
        if point.value not in library.rivals or point.name in off or "*" in off:
            continue
        line = f"export {DISABLED}={','.join([*off, point.name])}"
        if config.conflicts == "replace":
            yield warning(
                f"{point.value} is installed, too: ours takes its place when both are loaded",
                f"to decide that yourself: {line}",
            )
        else:
            yield warning(
                f"{library.queue} is left to {point.value}, as conflicts=yield wants it",
                f"to use ours: {line}",
            )
    built_in = library.built_in
    if built_in and holds(built_in.variable, built_in.values, environment):
        message = (
            f"{library.queue}'s own telemetry is switched on: ours takes its place"
            if config.conflicts == "replace"
            else f"{library.queue} is left to its own telemetry, as conflicts=yield wants it"
        )
        yield warning(message, f"unset {built_in.variable}")


def _twice() -> Iterator[Finding]:
    providers = {
        (distribution.metadata["Name"], distribution.version, str(distribution.locate_file("")))
        for distribution in distributions()
        for point in distribution.entry_points
        if point.group == "opentelemetry_instrumentor" and point.name.startswith(_PREFIX)
        if point.value.startswith("otel_queue_bridge.")
    }
    if len(providers) > 1:
        shown = ", ".join(f"{name} {found} in {where}" for name, found, where in sorted(providers))
        yield warning(
            f"otel-queue-bridge is installed more than once: {shown}", "uninstall all but one"
        )
