"""The questions that dashboards and rules ask, in PromQL.

Never `job` or `service_name`: it depends on how metrics travel whether, and where, these exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dashboards.names import QUEUE, SYSTEM, TASK, Names
from otel_queue_bridge.semconv import (
    COMPLETED,
    DELAYED,
    DISPATCHED,
    DURATION,
    HELD_BY_BROKER,
    HELD_BY_WORKERS,
    RETRIED,
    SUBMITTED,
)

if TYPE_CHECKING:
    from otel_queue_bridge.semconv import Metric, Naming

BY_SYSTEM, BY_QUEUE, BY_TASK = SYSTEM, f"{SYSTEM}, {QUEUE}", f"{SYSTEM}, {TASK}"
HELD = (f'{SYSTEM}="{HELD_BY_WORKERS}"', f'{QUEUE}!="{HELD_BY_BROKER}"')
FAILED = '=~"failure|rejected"'


class Over(NamedTuple):
    """How a counter is read: `rate` or `increase`, and over which time."""

    function: str
    window: str


class Queries:
    """The questions in one vocabulary; `matchers` narrow them down, by label."""

    def __init__(self, naming: Naming, matchers: dict[str, str] | None = None) -> None:
        self.names = Names(naming)
        self._matchers = matchers or {}

    def select(self, metric: Metric, part: str = "", **matchers: str) -> str:
        return self.names.select(metric, self._matchers | matchers, part)

    def _over(self, over: Over, metric: Metric, by: str, part: str = "", **matchers: str) -> str:
        selected = self.select(metric, part, **matchers)
        return f"sum by ({by}) ({over.function}({selected}[{over.window}]))"

    def submitted(self, over: Over, by: str) -> str:
        return self._over(over, SUBMITTED, by)

    def dispatched(self, over: Over, by: str) -> str:
        return self._over(over, DISPATCHED, by)

    def completed(self, over: Over, by: str, status: str = "") -> str:
        """Tasks that ended for good; the conventions have no name for them, but for attempts."""
        if self.names.has(COMPLETED):
            matchers = {self.names.status: status} if status else {}
            return self._over(over, COMPLETED, by, **matchers)
        matchers = {self.names.status: status or '!="retry"'}
        return self._over(over, DURATION, by, "count", **matchers)

    def retried(self, over: Over, by: str) -> str:
        if self.names.has(RETRIED):
            return self._over(over, RETRIED, by)
        return self._over(over, DURATION, by, "count", **{self.names.status: '="retry"'})

    def failure_ratio(self, over: Over, by: str) -> str:
        ended = self.completed(over, by)
        return ratio(self.completed(over, by, FAILED), ended)

    def retry_ratio(self, over: Over, by: str) -> str:
        return ratio(self.retried(over, by), self.dispatched(over, by))

    def quantile(self, share: float, metric: Metric, over: Over, by: str) -> str:
        buckets = self._over(over, metric, f"le, {by}", "bucket")
        return f"histogram_quantile({share:g}, {buckets})"

    def running(self, over: Over, by: str) -> str:
        """Attempts that run at once, on average."""
        return self._over(over, DURATION, by, "sum")

    def workers(self, metric: Metric) -> str:
        """Each process reports its workers: they add up."""
        return f"sum by ({BY_SYSTEM}) ({self.select(metric)})"

    def queue(self, metric: Metric) -> str:
        """Each worker process reports the whole queue: they are equal, but for their age."""
        return f"max by ({BY_QUEUE}) ({self.select(metric)})"

    def delayed(self) -> str:
        """As `queue`; but each Celery worker holds tasks for their ETA, and these add up."""
        held = self.names.select(DELAYED, self._matchers, also=HELD)
        return f"sum by ({BY_QUEUE}) ({held}) or {self.queue(DELAYED)}"


def ratio(part: str, whole: str) -> str:
    """Return the share of `part`: 0 where there is none, nothing where the whole is 0."""
    return f"({part} or 0 * {whole}) / ({whole} > 0)"
