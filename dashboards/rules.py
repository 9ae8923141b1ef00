"""The alerts: when each fires, how grave it is, and what to do first."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashboards.names import QUEUE, SYSTEM, TASK, Nameless
from dashboards.queries import BY_QUEUE, BY_SYSTEM, BY_TASK, FAILED, Over, Queries
from otel_queue_bridge.semconv import BUSY, DEAD, DEPTH, OLDEST, WAIT, WORKERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_queue_bridge.semconv import Naming

RUNBOOK = "docs/monitoring.md"
BY_QUEUE_AND_TASK = f"{BY_QUEUE}, {TASK}"
MINUTE, HOUR = 60, 3600
HEAD = """\
# Alerts for task queues. Made by `otel-queue-bridge dashboards --naming {naming}`.
# Change the thresholds to fit your queues. What to do when one fires: docs/monitoring.md.
groups:
  - name: otel-queue-bridge
    rules:
"""


def of(label: str) -> str:
    """Return the value of a label, for the text of an alert."""
    return f"{{{{ $labels.{label} }}}}"


IN_SYSTEM = of(SYSTEM)
IN_QUEUE = f"queue {of(QUEUE)} of {of(SYSTEM)}"
THE_TASK = f"{of(TASK)} in {IN_QUEUE}"
PERCENT = "{{ $value | humanizePercentage }}"
TIME = "{{ $value | humanizeDuration }}"
NUMBER = "{{ $value | humanize }}"


@dataclass
class Alert:
    name: str
    lasts: int
    """Seconds for which the condition holds before the alert fires."""
    severity: str
    summary: str
    first: str
    """What to do first."""
    when: Callable[[Rules], str]

    @property
    def section(self) -> str:
        return f"{RUNBOOK}#{self.name.lower()}"


class Rules:
    """The conditions of one vocabulary; all their times are divided by `faster`."""

    def __init__(self, naming: Naming, faster: int = 1) -> None:
        self.ask = Queries(naming)
        self._faster = faster

    def over(self, seconds: int) -> Over:
        return Over("increase", self.time(seconds))

    def rate(self, seconds: int) -> Over:
        return Over("rate", self.time(seconds))

    def seconds(self, seconds: int) -> str:
        return f"{seconds / self._faster:g}"

    def time(self, seconds: int) -> str:
        """Return a duration in Prometheus' notation."""
        left = seconds // self._faster
        for unit, size in (("h", HOUR), ("m", MINUTE)):
            if left % size == 0:
                return f"{left // size}{unit}"
        return f"{left}s"

    def failures(self) -> str:
        over, by = self.over(10 * MINUTE), BY_QUEUE_AND_TASK
        ended = self.ask.completed(over, by)
        return f"{self.ask.completed(over, by, FAILED)}\n/ {ended} > 0.1\nand {ended} >= 20"

    def wait(self) -> str:
        slow = self.ask.quantile(0.95, WAIT, self.rate(10 * MINUTE), BY_QUEUE)
        return f"{slow} > {self.seconds(MINUTE)}"

    def growing(self) -> str:
        depth = self.ask.select(DEPTH)
        window = self.time(5 * MINUTE)
        now = f"max by ({BY_QUEUE}) (min_over_time({depth}[{window}]))"
        earlier = f"{depth}[{window}] offset {self.time(15 * MINUTE)}"
        before = f"max by ({BY_QUEUE}) (max_over_time({earlier}))"
        return f"{now}\n> 1.2 * {before} + 10"

    def stuck(self) -> str:
        over = self.over(5 * MINUTE)
        waiting = f"min_over_time({self.ask.select(DEPTH)}[{over.window}])"
        return (
            f"max by ({BY_QUEUE}) ({waiting}) > 0\n"
            f"unless {self.ask.completed(over, BY_QUEUE)} > 0\n"
            f"unless {self.ask.retried(over, BY_QUEUE)} > 0"
        )

    def saturated(self) -> str:
        window = self.time(5 * MINUTE)
        busy, active = (
            f"sum by ({BY_SYSTEM}) (avg_over_time({self.ask.select(metric)}[{window}]))"
            for metric in (BUSY, WORKERS)
        )
        return f"{busy}\n/ {active} > 0.9"

    def gone(self) -> str:
        workers = self.ask.select(WORKERS)
        before = f"max_over_time({workers}[{self.time(6 * HOUR)}])"
        return f"sum by ({BY_SYSTEM}) ({before}) > 0\nunless sum by ({BY_SYSTEM}) ({workers}) > 0"

    def retries(self) -> str:
        over, by = self.over(10 * MINUTE), BY_QUEUE_AND_TASK
        retried = self.ask.retried(over, by)
        return f"{retried}\n/ {self.ask.dispatched(over, by)} > 0.5\nand {retried} >= 20"

    def dead(self) -> str:
        dead = self.ask.select(DEAD)
        before = f"min by ({BY_QUEUE}) (min_over_time({dead}[{self.time(15 * MINUTE)}]))"
        return f"{self.ask.queue(DEAD)}\n- {before} > 0"

    def oldest(self) -> str:
        return f"{self.ask.queue(OLDEST)} > {self.seconds(10 * MINUTE)}"

    def lost(self) -> str:
        # By task, not by queue: a caller may know a queue by another name than its worker does.
        over = self.over(HOUR)
        submitted = self.ask.submitted(over, BY_TASK)
        completed = f"({self.ask.completed(over, BY_TASK)} or 0 * {submitted})"
        return f"1 - {completed}\n/ {submitted} > 0.1\nand {submitted} >= 20"


ALERTS = (
    Alert(
        "TaskFailures",
        5 * MINUTE,
        "warning",
        f"{PERCENT} of {THE_TASK} fail",
        "Open the dashboard of this task: its panel Errors names what is raised.",
        Rules.failures,
    ),
    Alert(
        "TaskWaitLong",
        5 * MINUTE,
        "warning",
        f"Tasks in {IN_QUEUE} wait up to {TIME} (p95)",
        "See whether more is submitted or tasks run longer, then add workers.",
        Rules.wait,
    ),
    Alert(
        "TaskBacklogGrowing",
        10 * MINUTE,
        "warning",
        f"{NUMBER} tasks wait in {IN_QUEUE}, and their number grows",
        "See whether more is submitted, tasks run longer or workers are gone.",
        Rules.growing,
    ),
    Alert(
        "TaskQueueStuck",
        10 * MINUTE,
        "critical",
        f"{NUMBER} tasks wait in {IN_QUEUE}, and none ends",
        "Look at what the workers of this queue do: each may hang in one task.",
        Rules.stuck,
    ),
    Alert(
        "TaskWorkersSaturated",
        15 * MINUTE,
        "warning",
        f"{PERCENT} of the workers of {IN_SYSTEM} are busy",
        "Add workers, or find the task that fills them: sort the table of a queue by Runs at once.",
        Rules.saturated,
    ),
    Alert(
        "TaskWorkersGone",
        5 * MINUTE,
        "critical",
        f"No worker of {IN_SYSTEM} is left",
        "See whether the worker processes run, reach the broker and export metrics.",
        Rules.gone,
    ),
    Alert(
        "TaskRetryStorm",
        5 * MINUTE,
        "warning",
        f"{PERCENT} of the attempts of {THE_TASK} are tried again",
        "Find out what the attempts fail at. Give the retries a longer pause, or allow fewer.",
        Rules.retries,
    ),
    Alert(
        "TaskDeadLetters",
        MINUTE,
        "warning",
        f"{NUMBER} more dead tasks in {IN_QUEUE}",
        "Look at them in the broker: nobody will run them unless you enqueue them again.",
        Rules.dead,
    ),
    Alert(
        "TaskOldestWaits",
        5 * MINUTE,
        "warning",
        f"The oldest task in {IN_QUEUE} has waited {TIME}",
        "See whether any worker consumes this queue, and what it does.",
        Rules.oldest,
    ),
    Alert(
        "TaskNotCompleted",
        15 * MINUTE,
        "warning",
        f"{PERCENT} of {of(TASK)} submitted to {IN_SYSTEM} in the last hour have not ended",
        "See whether they wait (depth, delayed) or run; if neither, they are lost.",
        Rules.lost,
    ),
)


def rules(naming: Naming, faster: int = 1) -> str:
    """Return the alerts of a vocabulary, as YAML; one is left out if its metrics are missing."""
    made = Rules(naming, faster)
    written = [HEAD.format(naming=naming)]
    for alert in ALERTS:
        with suppress(Nameless):
            written.append(_written(alert, alert.when(made), made.time(alert.lasts)))
    return "".join(written)


def _written(alert: Alert, condition: str, lasts: str) -> str:
    expression = "\n".join(f"          {line}" for line in condition.splitlines())
    # A string in JSON is one in YAML, too.
    return f"""\
      - alert: {alert.name}
        expr: |-
{expression}
        for: {lasts}
        labels:
          severity: {alert.severity}
        annotations:
          summary: {json.dumps(alert.summary)}
          description: {json.dumps(alert.first)}
          runbook_url: {alert.section}
"""
