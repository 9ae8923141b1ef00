"""The options in effect, where each comes from, and variables that are not what they look like."""

from __future__ import annotations

from contextlib import suppress
from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from otel_queue_bridge import semconv
from otel_queue_bridge.cli.doctor.findings import ok, problem, warning
from otel_queue_bridge.config import OPTIONS, VARIABLE, ConfigError, load, unknown_variables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_queue_bridge.cli.doctor.findings import Finding
    from otel_queue_bridge.cli.doctor.libraries import Library
    from otel_queue_bridge.config import Config

_WITHOUT_PYTHON = VARIABLE.replace("PYTHON_", "")
_ALIKE = 0.93
"""How alike an unknown variable and a standard one must be: OTEL_EXPORTER_OLTP_ENDPOINT is."""


def errors(environment: Mapping[str, str]) -> dict[str, ConfigError]:
    """Return what is wrong, by variable: `load` stops at the first."""
    found = {name: _error(name, environment[name]) for name in sorted(environment)}
    return {name: error for name, error in found.items() if error is not None}


def _error(variable: str, value: str) -> ConfigError | None:
    try:
        load(environment={variable: value})
    except ConfigError as error:
        return error
    return None


def effective(environment: Mapping[str, str]) -> Config:
    """Read the options, leaving out what is wrong."""
    wrong = errors(environment)
    return load(environment={name: environment[name] for name in environment if name not in wrong})


def findings(environment: Mapping[str, str], config: Config) -> Iterator[Finding]:
    for variable, error in errors(environment).items():
        default = _written(OPTIONS[variable.removeprefix(VARIABLE).lower()].default)
        yield problem(str(error), f"unset {variable} for the default: {default}", name=variable)
    for variable, what in unknown_variables(environment).items():
        near = get_close_matches(variable.removeprefix(VARIABLE).lower(), OPTIONS, n=1)
        advice = f"rename it to {VARIABLE}{near[0].upper()}" if near else f"unset {variable}"
        yield problem(what, advice, name=variable)
    known = _standard_variables()
    for variable in sorted(environment):
        if variable.startswith(_WITHOUT_PYTHON):
            likely = VARIABLE + variable.removeprefix(_WITHOUT_PYTHON)
            yield problem(f"{variable} has no effect", f"rename it to {likely}", name=variable)
        elif variable.startswith("OTEL_") and variable not in known | _own_variables():
            for likely in get_close_matches(variable, known, n=1, cutoff=_ALIKE):
                yield warning(
                    f"{variable} is not known; did you mean {likely}?",
                    f"rename it to {likely}",
                    name=variable,
                )
    for name in OPTIONS:
        origin = config.origin.get(name, "default")
        value = _written(getattr(config, name))
        yield ok(f"{name} = {value} ({origin})", option=name, value=value, origin=origin)


def forks(config: Config) -> Iterator[Finding]:
    """Say what can be known of forked children without looking into a worker."""
    if config.flush_timeout > 0:
        yield ok(f"a child that ends takes up to {config.flush_timeout:g} s to export its spans")
    else:
        variable = f"{VARIABLE}FLUSH_TIMEOUT"
        yield warning(
            "children end without exporting: the last spans of each are lost",
            f"export {variable}={OPTIONS['flush_timeout'].default:g}",
        )


def gauges(config: Config, libraries: list[Library]) -> Iterator[Finding]:
    """Say what workers export of themselves and of what waits in their queues."""
    workers, queues = (
        [metric.name(config.naming, "{system}") for metric in semconv.READ_WITH[first]]
        for first in (semconv.WORKERS, semconv.DEPTH)
    )
    if not config.metrics:
        yield ok("no metrics are recorded", f"export {VARIABLE}METRICS=true")
    elif not any(workers):
        yield ok(
            f"naming={config.naming} has no names for workers and for what waits in queues",
            f"export {VARIABLE}NAMING=task",
        )
    else:
        yield ok(f"workers export {', '.join(workers)}")
        if config.queue_depth:
            yield ok(
                f"they export of each queue, as far as its broker can tell: {', '.join(queues)}"
            )
            for queue, adapter, *_ in libraries:
                if adapter and adapter.queries_for_depth and "queue_depth" not in config.origin:
                    yield ok(
                        f"but nothing of {queue}'s queues: that takes queries on your database",
                        f"export {VARIABLE}QUEUE_DEPTH=true",
                    )
        else:
            yield ok(
                f"they export of no queue: {', '.join(queues)}",
                f"export {VARIABLE}QUEUE_DEPTH=true",
            )


def privacy(config: Config) -> Iterator[Finding]:
    """Say what of the users' data may leave with the spans."""
    if config.capture_arguments:
        yield ok(f"recorded arguments: {_written(config.capture_arguments)}")
    else:
        yield ok("no arguments are recorded")
    if config.exception_messages:
        yield ok(
            "messages of exceptions are recorded",
            f"for their types alone: export {VARIABLE}EXCEPTION_MESSAGES=false",
        )
    else:
        yield ok("of exceptions only types and stacks are recorded")


def _own_variables() -> set[str]:
    return {VARIABLE + name.upper() for name in OPTIONS} | {VARIABLE}


def _standard_variables() -> set[str]:
    names: set[str] = set()
    for point in entry_points(group="opentelemetry_environment_variables"):
        with suppress(Exception):  # a stranger's module
            names |= {str(value) for value in vars(point.load()).values()}
    return {name for name in names if name.startswith("OTEL_")} - _own_variables()


def _written(value: object) -> str:
    """Write a value as its variable would hold it."""
    if value is None or value in ((), {}):
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(value)
    if hasattr(value, "items"):
        return ";".join(f"{task}:{','.join(sorted(names))}" for task, names in value.items())
    return str(value)
