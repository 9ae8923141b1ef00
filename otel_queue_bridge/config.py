"""Read the options from keywords and the environment, and note where each value came from.

No other module reads options. Keywords win over variables, and variables over defaults.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, make_dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.propagators.textmap import TextMapPropagator
    from opentelemetry.trace import Span, TracerProvider

    from otel_queue_bridge.adapter import Task

VARIABLE = "OTEL_PYTHON_QUEUE_BRIDGE_"


class ConfigError(ValueError):
    """An option has a value that is not allowed, or a name that does not exist."""


class Option(NamedTuple):
    """One option that has an environment variable."""

    default: Any
    parse: Callable[[Any], Any]
    """Turns a string or a keyword's value into the option's value; ValueError if not allowed."""
    allowed: str


def _one_of(*names: str, optional: bool = False) -> Option:
    """Return an option with one of these values, by default the first, or None if `optional`."""

    def parse(value: Any) -> str | None:
        if value not in names and not (optional and value is None):
            raise ValueError
        return value if value is None else str(value)

    return Option(None if optional else names[0], parse, "allowed are " + ", ".join(names))


def _switch(default: bool) -> Option:  # noqa: FBT001 - all callers name it
    words = {"true": True, "1": True, "false": False, "0": False}

    def parse(value: Any) -> bool:
        if isinstance(value, bool):
            return value
        try:
            return words[value.strip().lower()]
        except (AttributeError, KeyError):
            raise ValueError from None

    return Option(default, parse, "allowed are true and false")


def _seconds(default: float | None) -> Option:
    def parse(value: Any) -> float | None:
        if value is None or value == "off":
            return default
        if isinstance(value, bool):
            raise ValueError  # noqa: TRY004 - one error for every bad value
        seconds = float(value)
        if not 0 <= seconds < math.inf:
            raise ValueError
        return seconds

    return Option(default, parse, "allowed is a number of seconds from 0")


def _count(default: int) -> Option:
    def parse(value: Any) -> int:
        if isinstance(value, (bool, float)):
            raise ValueError  # noqa: TRY004 - one error for every bad value
        count = int(value)
        if count < 1:
            raise ValueError
        return count

    return Option(default, parse, "allowed is a number from 1")


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    names = tuple(name.strip() for name in value if name.strip())
    if any("," in name for name in names):
        raise ValueError
    return names


_GLOBS = Option((), _names, "allowed is a list of globs, separated by commas")


def _capture(value: Any) -> Mapping[str, frozenset[str]]:
    if isinstance(value, str):
        pairs = [part.partition(":")[::2] for part in value.split(";") if part.strip()]
    else:
        pairs = list(value.items())
    capture = {task.strip(): frozenset(_names(arguments)) for task, arguments in pairs}
    if not all(task and arguments for task, arguments in capture.items()):
        raise ValueError
    return MappingProxyType(capture)


ABOUT = {
    "queues": (
        "which queue libraries are instrumented, such as `celery,rq`; without it, all that are "
        "installed"
    ),
    "naming": (
        "how spans and metrics are named: `task` (`execute {task}`), `system` "
        "(`celery.task.execute`) or `messaging` (`execute {queue}`); see "
        "[reference.md](reference.md)"
    ),
    "relation": (
        "how the worker's spans belong to the submit: `child` of it, in a new trace with "
        "a `link` to it, or `none`"
    ),
    "linked_tasks": (
        "tasks that run in a new trace with a link to the submit, whatever `relation` says; see "
        "[traces.md](traces.md)"
    ),
    "retries": (
        "whether a retry is submitted as a `child` of the attempt that asked for it, or in a new "
        "trace with a `link` to that"
    ),
    "link_after": "seconds of planned delay beyond which `link` is used; `off` is the default",
    "dispatch_spans": "false: only submit and execute, two spans for a task",
    "metrics": "false: no metrics at all",
    "queue_depth": (
        "whether workers read what waits in their queues: ready, delayed, dead, the oldest; they "
        "do it on a separate connection, within a second. Where that is a query on your database "
        "(Django Tasks), only if this option is set to true"
    ),
    "excluded_tasks": (
        "tasks that get no spans and carry no trace; their metrics stay, except "
        "`task.wait`, which needs the time of the submit"
    ),
    "excluded_queues": "likewise all tasks of these queues",
    "capture_arguments": (
        "arguments to record, task by task, also those that a task takes as `**kwargs`; "
        "no others ever are"
    ),
    "exception_messages": "false: record an exception's type and stack, without its message",
    "max_task_names": "how many task names metrics may hold; later ones count as `_other`",
    "max_queue_names": "how many queue names metrics may hold; later ones count as `_other`",
    "suppress_polling": (
        "other instrumentations, such as that of Redis, make no spans of what a worker "
        "does by itself: polling, heartbeats, maintenance, events"
    ),
    "untested_versions": (
        "true: instrument a version outside the tested range as far as its parts are "
        "found; one warning names those that are missing"
    ),
    "flush_timeout": (
        "seconds by which its last export may delay the end of a forked child; main "
        "processes end with the SDK's own export, which `OTEL_EXPORTER_OTLP_TIMEOUT` and "
        "similar variables limit"
    ),
    "child_export": (
        "how spans leave a forked child: `relay` through the worker's main process, so "
        "that a kill loses none that had ended (RQ's default), or the child's `own` "
        "export, with a last one when it ends (Celery's default)"
    ),
    "conflicts": (
        "`yield`: leave Celery to OpenTelemetry's own instrumentor, ARQ to a third party's, "
        "and FastWorker to its own telemetry, if these are active; `replace`: take their place"
    ),
}
"""What each option does; docs/options.md is made of it."""

OPTIONS: Mapping[str, Option] = MappingProxyType(
    {
        "queues": Option(None, _names, "allowed is a list of queue libraries"),
        "naming": _one_of("task", "system", "messaging"),
        "relation": _one_of("child", "link", "none"),
        "linked_tasks": _GLOBS,
        "retries": _one_of("child", "link"),
        "link_after": _seconds(None),
        "dispatch_spans": _switch(default=True),
        "metrics": _switch(default=True),
        "queue_depth": _switch(default=True),
        "excluded_tasks": _GLOBS,
        "excluded_queues": _GLOBS,
        "capture_arguments": Option(
            MappingProxyType({}), _capture, "allowed is 'task:argument,argument;task2:argument'"
        ),
        "exception_messages": _switch(default=True),
        "max_task_names": _count(200),
        "max_queue_names": _count(200),
        "suppress_polling": _switch(default=True),
        "untested_versions": _switch(default=False),
        "flush_timeout": _seconds(2.0),
        "child_export": _one_of("relay", "own", optional=True),
        "conflicts": _one_of("replace", "yield"),
    }
)

FileOptions = make_dataclass("FileOptions", [(name, Any, None) for name in OPTIONS])
"""The options that a declarative configuration (OTEL_CONFIG_FILE) may set; None if it does not."""

# `opentelemetry-instrument` makes a command-line flag of every name here that begins with OTEL_.
globals().update({VARIABLE + name.upper(): VARIABLE + name.upper() for name in OPTIONS})

_KEYWORD_ONLY = {
    "propagator": "inject",
    "tracer_provider": "get_tracer",
    "meter_provider": "get_meter",
    "submit_hook": "__call__",
    "execute_hook": "__call__",
    "task_name": "__call__",
    "metric_attributes": "__call__",
}
"""Options that have no variable, each with the method that its value must have."""


class Options(TypedDict, total=False):
    """The keywords of `instrument()`; docs/options.md explains each. Times are in seconds."""

    queues: Sequence[str] | str
    naming: Literal["task", "system", "messaging"]
    relation: Literal["child", "link", "none"]
    linked_tasks: Sequence[str] | str
    retries: Literal["child", "link"]
    link_after: float | None
    dispatch_spans: bool
    metrics: bool
    queue_depth: bool
    excluded_tasks: Sequence[str] | str
    excluded_queues: Sequence[str] | str
    capture_arguments: Mapping[str, Iterable[str]] | str
    exception_messages: bool
    max_task_names: int
    max_queue_names: int
    suppress_polling: bool
    untested_versions: bool
    flush_timeout: float
    child_export: Literal["relay", "own"] | None
    conflicts: Literal["replace", "yield"]
    propagator: TextMapPropagator | None
    tracer_provider: TracerProvider | None
    meter_provider: MeterProvider | None
    submit_hook: Callable[[Span, Task], None] | None
    execute_hook: Callable[[Span, Task], None] | None
    task_name: Callable[[Task], str | None] | None
    metric_attributes: Callable[[Task], Mapping[str, str | bool | int] | None] | None


@dataclass(frozen=True, kw_only=True)
class Config:
    """All options, checked; docs/options.md explains each. Times are in seconds."""

    queues: tuple[str, ...] | None = None
    naming: Literal["task", "system", "messaging"] = "task"
    relation: Literal["child", "link", "none"] = "child"
    linked_tasks: tuple[str, ...] = ()
    retries: Literal["child", "link"] = "child"
    link_after: float | None = None
    dispatch_spans: bool = True
    metrics: bool = True
    queue_depth: bool = True
    excluded_tasks: tuple[str, ...] = ()
    excluded_queues: tuple[str, ...] = ()
    capture_arguments: Mapping[str, frozenset[str]] = field(default_factory=dict)
    exception_messages: bool = True
    max_task_names: int = 200
    max_queue_names: int = 200
    suppress_polling: bool = True
    untested_versions: bool = False
    flush_timeout: float = 2.0
    child_export: Literal["relay", "own"] | None = None
    conflicts: Literal["replace", "yield"] = "replace"
    propagator: TextMapPropagator | None = None
    tracer_provider: TracerProvider | None = None
    meter_provider: MeterProvider | None = None
    submit_hook: Callable[[Span, Task], None] | None = None
    execute_hook: Callable[[Span, Task], None] | None = None
    task_name: Callable[[Task], str | None] | None = None
    metric_attributes: Callable[[Task], Mapping[str, str | bool | int] | None] | None = None
    origin: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where each value that is not a default came from: a variable's name or `instrument()`."""


def load(
    keywords: Mapping[str, Any] | None = None, environment: Mapping[str, str] = os.environ
) -> Config:
    """Read the options; a ConfigError says what is wrong, where, and what is allowed.

    A misspelt variable is no error: see `unknown_variables`.
    """
    keywords = keywords or {}
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for variable in sorted(environment):
        name = variable.removeprefix(VARIABLE).lower()
        # OpenTelemetry treats an empty variable as one that is not set.
        if _is_option(variable) and environment[variable].strip():
            values[name] = _parse(name, environment[variable], variable)
            origin[name] = variable
    for name, value in keywords.items():
        if name in OPTIONS:
            values[name] = _parse(name, value, f"instrument({name}=...)")
        elif name in _KEYWORD_ONLY:
            if value is not None and not callable(getattr(value, _KEYWORD_ONLY[name], None)):
                raise ConfigError(
                    f"instrument({name}=...) is a {type(value).__name__}: "
                    f"it has no {_KEYWORD_ONLY[name]}()"
                )
            values[name] = value
        else:
            raise ConfigError(_unknown(f"instrument({name}=...)", name, [*OPTIONS, *_KEYWORD_ONLY]))
        origin[name] = "instrument()"
    return Config(**values, origin=MappingProxyType(origin))


def unknown_variables(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return a message for each variable that looks like an option but is not one."""
    return {
        variable: _unknown(variable, variable.removeprefix(VARIABLE).lower(), OPTIONS, VARIABLE)
        for variable in sorted(environment)
        if variable.startswith(VARIABLE) and not _is_option(variable)
    }


def _is_option(variable: str) -> bool:
    name = variable.removeprefix(VARIABLE).lower()
    return name in OPTIONS and variable == VARIABLE + name.upper()


def unknown_queue(queue: str, known: Iterable[str], place: str) -> str:
    """Say that `place` names a queue that does not exist, and which one may be meant."""
    allowed = sorted(known)
    near = get_close_matches(queue, allowed, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"{place} names {queue!r}: {meant}allowed are {', '.join(allowed)}"


def switched_on(variable: str, environment: Mapping[str, str] = os.environ) -> bool | None:
    """Read a library's own switch: None if it is not set, ConfigError if its word is unknown."""
    value = environment.get(variable, "")
    if not value.strip():
        return None
    switch = _switch(default=True)
    try:
        return bool(switch.parse(value))
    except ValueError:
        message = f"{variable} is {value!r}: {switch.allowed}"
        raise ConfigError(message) from None


def holds(
    variable: str, values: Iterable[str], environment: Mapping[str, str] = os.environ
) -> bool:
    """Tell whether a library's own variable has one of these values, whatever their case."""
    return environment.get(variable, "").lower() in values


def _parse(name: str, value: Any, place: str) -> Any:
    option = OPTIONS[name]
    try:
        return option.parse(value)
    except (ValueError, TypeError, AttributeError, OverflowError):
        message = f"{place} is {value!r}: {option.allowed}"
        raise ConfigError(message) from None


def _unknown(place: str, name: str, known: Iterable[str], prefix: str = "") -> str:
    near = get_close_matches(name, known, n=1)
    names = [one.upper() if prefix else one for one in near or known]
    if near:
        return f"{place} does not exist; did you mean {prefix}{names[0]}?"
    return f"{place} does not exist: allowed are {prefix and f'{prefix}...: '}{', '.join(names)}"
