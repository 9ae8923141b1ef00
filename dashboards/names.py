"""Our metrics as Prometheus knows them: the only place that reads their names."""

from __future__ import annotations

import re
from typing import NamedTuple

from otel_queue_bridge import semconv
from otel_queue_bridge.semconv import (
    COMPLETED,
    COUNTERS,
    DEPTH,
    DURATION,
    READ_WITH,
    RECORDED,
    WORKERS,
    Metric,
    Naming,
)

OF_WORKERS, OF_QUEUES = READ_WITH[WORKERS], READ_WITH[DEPTH]
OF_TASKS = tuple(RECORDED.values())
METRICS = (*OF_WORKERS, *OF_QUEUES, *OF_TASKS)


class Nameless(Exception):  # noqa: N818 - no error: what needs the metric is left out
    """The vocabulary has no such metric."""


def label(attribute: str) -> str:
    """Return the label that an attribute becomes."""
    return attribute.replace(".", "_")


SYSTEM = label(semconv.MESSAGING_SYSTEM)
QUEUE = label(semconv.MESSAGING_DESTINATION_NAME)
TASK = label(semconv.TASK_NAME)
ERROR = label(semconv.ERROR_TYPE)


class Names(NamedTuple):
    """The names of one vocabulary."""

    naming: Naming

    @property
    def status(self) -> str:
        """The label that holds `task.status`."""
        return label(semconv.status_attribute(self.naming))

    def has(self, metric: Metric) -> bool:
        return bool(metric.name(self.naming, "x"))

    def series(self, metric: Metric, part: str = "") -> str:
        """Return the name of a series, as OTLP becomes Prometheus; `.+` stands for any system.

        A histogram has the parts `bucket`, `count` and `sum`.
        """
        name = metric.name(self.naming, "{system}")
        if not name:
            raise Nameless
        unit = "_seconds" if metric.unit == "s" else ""  # `{task}` and the like are dropped
        ending = "_total" if metric in COUNTERS else f"_{part}" if part else ""
        return f"{label(name)}{unit}{ending}".replace("{system}", ".+")

    def labels(self, metric: Metric) -> set[str]:
        """Return the labels of a metric that our queries use."""
        found = {SYSTEM}
        if metric not in OF_WORKERS:
            found.add(QUEUE)
        if metric in OF_TASKS:
            found.add(TASK)
        if metric in (COMPLETED, DURATION):
            found |= {self.status, ERROR}
        return found

    def select(
        self, metric: Metric, matchers: dict[str, str], part: str = "", also: tuple[str, ...] = ()
    ) -> str:
        """Return a selector; a matcher is for the metrics that have its label, `=~"x"` say.

        What is in `also` is whole matchers, of labels that may have one already.
        """
        name = self.series(metric, part)
        known = self.labels(metric)
        chosen = {key: value for key, value in matchers.items() if key in known}
        listed = [*self._guarded(chosen), *also]
        if ".+" not in name:
            return f"{name}{_selector(listed)}"
        if re.fullmatch(name, Names("task").series(metric, part)):
            listed.insert(0, '__name__!~"task_.+"')
        return _selector([_named(name), *listed])

    def either(self, metrics: tuple[Metric, ...], matchers: dict[str, str]) -> str:
        """Return a selector of several metrics."""
        names = "|".join(self.series(metric) for metric in metrics)
        return _selector([_named(names), *self._guarded(matchers)])

    def _guarded(self, matchers: dict[str, str]) -> list[str]:
        """Leave out what others report under the same names: it lacks these labels."""
        guards = [SYSTEM, TASK] if self.naming == "messaging" else [SYSTEM]
        chosen = {**dict.fromkeys(guards, '!=""'), **matchers}
        return [f"{key}{value}" for key, value in chosen.items()]


def _named(pattern: str) -> str:
    return f'__name__=~"{pattern}"'


def _selector(matchers: list[str]) -> str:
    return f"{{{', '.join(matchers)}}}"
