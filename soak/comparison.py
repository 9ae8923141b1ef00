"""Compares what was exported with what happened."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from soak.tasks import KILLED, RETRIED
from soak.truth import OK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from otel_queue_bridge.otlp import Point, Span
    from soak.truth import Attempt, Submission, Truth

Count = tuple[str, str]
"""A metric, with its status if it is `completed`, and a task."""
EXPECTED = "ExpectedError"
THROWS = ("celery", "dramatiq")
"""The queues that know of expected exceptions."""


class Received(Protocol):
    def spans(self) -> list[Span]: ...

    def latest(self) -> list[Point]: ...


@dataclass(frozen=True)
class Allowance:
    """What need not agree."""

    phases: tuple[str, ...]
    """The loads to compare: what keys begin with."""
    all: bool = True
    """Whether these are all loads, so that counters can be compared, too."""
    shaken: str = ""
    """The load whose tasks may be lost or run twice."""
    span: Callable[[Attempt], bool] = lambda _: False
    """Whether the span of an attempt may be lost."""
    count: Callable[[Attempt], bool] = lambda _: False
    """Whether what was counted of it may be lost."""
    slack: int = 0
    """By how much a count may differ beyond that, since a worker that ends holds tasks."""


@dataclass
class Difference:
    tasks: int = 0
    attempts: int = 0
    spans: int = 0
    missing: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Spans that say something else than what happened."""
    counters: list[str] = field(default_factory=list)
    shaken: list[str] = field(default_factory=list)
    """Spans missing from that load: a worker may lose as many as it holds."""
    excused: int = 0
    """Attempts whose span is missing, and may be."""

    def lines(self) -> list[str]:
        return [
            f"{kind}: {one}"
            for kind in ("missing", "doubled", "wrong", "counters")
            for one in getattr(self, kind)
        ]


def compare(truth: Truth, received: Received, system: str, allowed: Allowance) -> Difference:
    """Compare what arrived of one queue with what the tasks have written down."""
    found = Difference()
    executes: dict[str, list[Span]] = defaultdict(list)
    for span in received.spans():
        if span.attributes.get("messaging.operation.name") == "execute":
            executes[str(span.attributes.get("messaging.message.id"))].append(span)
    counts = _Counts(system, allowed)
    for submission in truth.submissions():
        if submission.key.startswith(allowed.phases):
            attempts, spans = truth.attempts(submission.key), executes.pop(submission.id, [])
            found.tasks += 1
            found.attempts += len(attempts)
            found.spans += len(spans)
            task = _Task(system, allowed, submission, attempts)
            if task.number_fits(spans, found):
                found.wrong += task.wrong(spans)
            counts.expect(submission, attempts)
    if len(found.shaken) <= allowed.slack:
        found.excused += len(found.shaken)
    else:
        found.missing += found.shaken
    if allowed.all:
        strays = [span.name for spans in executes.values() for span in spans]
        found.doubled += [f"{name}, of which no task knows" for name in strays[allowed.slack :]]
        found.counters = counts.differences(received.latest())
    return found


@dataclass(frozen=True)
class _Task:
    system: str
    allowed: Allowance
    submission: Submission
    attempts: list[Attempt]

    def __str__(self) -> str:
        return f"{self.submission.name} {self.submission.key} ({self.submission.id})"

    def number_fits(self, spans: list[Span], found: Difference) -> bool:
        """Tell whether each attempt has its span, or note why not."""
        numbers = f"{self}: {len(self.attempts)} attempts, {len(spans)} spans"
        lost = len(self.attempts) - len(spans)
        if len({span.span_id for span in spans}) < len(spans) or (lost < 0 and not self._shaken):
            found.doubled.append(numbers)
        excused = max(0, min(lost, sum(map(self.allowed.span, self.attempts))))
        found.excused += excused
        if lost > excused:
            (found.shaken if self._shaken else found.missing).append(numbers)
        return lost == 0

    @property
    def _shaken(self) -> bool:
        return self.submission.key.startswith(self.allowed.shaken or "nothing")

    def wrong(self, spans: list[Span]) -> Iterator[str]:
        """Return which spans say something else than what happened."""
        if self._shaken:  # a broker that has gone may change how an attempt ends, after its body
            return
        spans.sort(key=lambda span: (span.attributes.get("task.attempt", 0), span.start))
        for attempt, span in zip(self.attempts, spans, strict=True):
            status = status_of(self.submission.name, self.attempts, attempt)
            if "task.status" not in span.attributes and self.allowed.span(attempt):
                continue  # it had begun when nobody was there to see its end
            said = (str(span.attributes.get("task.status")), span.status)
            error = str(span.attributes.get("error.type", ""))
            expected = attempt.how == EXPECTED and self.system in THROWS
            failed = status == "failure" and not expected
            right = {"ERROR"} if failed else {"UNSET"}
            if status == "retry":  # ARQ's tasks ask for it, and the others fail
                right.add("ERROR")
            if said[0] != status or said[1] not in right:
                yield f"{self}: {attempt.how or 'killed'}, and its span says {said}"
            elif failed and not (error and error.endswith(attempt.how)):
                yield f"{self}: {attempt.how or 'killed'}, and its span has the error {error!r}"


def status_of(name: str, attempts: list[Attempt], attempt: Attempt) -> str:
    if attempt.how == OK:
        return "success"
    return "retry" if name in RETRIED and attempt is attempts[0] else "failure"


class _Counts:
    """What has to be counted at least, and at most."""

    def __init__(self, system: str, allowed: Allowance) -> None:
        self._system = system
        self._allowed = allowed
        self._least: Counter[Count] = Counter()
        self._most: Counter[Count] = Counter()

    def expect(self, submission: Submission, attempts: list[Attempt]) -> None:
        name = submission.name
        if submission.counted:
            self._add("submitted", name, sure=not any(map(self._allowed.count, attempts)))
        for attempt in attempts:
            sure = not self._allowed.count(attempt)
            status = status_of(name, attempts, attempt)
            self._add("dispatched", name, sure=sure)
            self._add("retried" if status == "retry" else f"completed {status}", name, sure=sure)
            if attempt.how or name == KILLED:
                self._add("duration", name, sure=sure)

    def _add(self, metric: str, name: str, *, sure: bool) -> None:
        self._most[metric, name] += 1
        self._least[metric, name] += sure

    def differences(self, points: Iterable[Point]) -> list[str]:
        counted: Counter[Count] = Counter()
        for point in points:
            metric = point.metric.removeprefix("task.")
            if point.attributes.get("messaging.system") == self._system and metric in (
                *("submitted", "dispatched", "completed", "retried", "duration"),
            ):
                name = str(point.attributes.get("task.name")).rpartition(".")[2]
                if metric == "completed":
                    metric += f" {point.attributes.get('task.status')}"
                counted[metric, name] += point.count or int(point.value)
        slack = self._allowed.slack
        return [
            f"{metric} of {name}: {counted[metric, name]}, and it was {self._range(metric, name)}"
            for metric, name in sorted({*counted, *self._most})
            if not self._least[metric, name] - slack
            <= counted[metric, name]
            <= self._most[metric, name] + slack
        ]

    def _range(self, metric: str, name: str) -> str:
        least, most = self._least[metric, name], self._most[metric, name]
        return str(most) if least == most else f"{least} to {most}"
