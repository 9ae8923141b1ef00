"""What came of the runs: the table, and what did not agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from soak.queues import QUEUES
from soak.run import DURING
from soak.tasks import without_nested

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from soak.run import Plan, Result


@dataclass(frozen=True)
class Row:
    plan: Plan
    result: Result | None = None
    control: Result | None = None
    """The same run without us."""
    skipped: str = ""
    """Why there was none."""
    error: str = ""
    """Why it broke off."""

    def differences(self) -> Iterator[str]:
        """Return what may not be."""
        if self.error:
            yield self.error
        if self.result is None or self.control is None:
            return
        yield from self.result.difference.lines()
        ours, control = self.result, self.control
        if not self.plan.shaken:
            for key in sorted(ours.hows.keys() | control.hows.keys()):
                with_us, without = ours.hows.get(key), control.hows.get(key)
                if with_us != without:
                    yield f"changed: {key} ended as {with_us}, and without us as {without}"
            return
        held = QUEUES[self.plan.queue].held
        stray = [key for key in ours.changed if not key.startswith(DURING)]
        if stray or len(without_nested(ours.changed)) > held:
            yield f"changed: {ours.changed}; a worker holds {held}, of the load {DURING!r}"


def table(rows: Iterable[Row]) -> Table:
    drawn = Table(title="Telemetry against what happened")
    for name in ("queue", "fault", "over"):
        drawn.add_column(name, no_wrap=True)
    columns = ("tasks", "attempts", "spans", "lost to the fault", "missing", "doubled", "wrong")
    for name in (*columns, "wrong counters", "tasks changed", "in the control"):
        drawn.add_column(name, justify="right")
    for row in rows:
        cells = [row.plan.queue, row.plan.fault, row.plan.protocol]
        if row.result is not None and row.control is not None:
            found = row.result.difference
            lists = [found.missing, found.doubled, found.wrong, found.counters]
            lists += [row.result.changed, row.control.changed]
            cells += map(str, (found.tasks, found.attempts, found.spans, found.excused))
            cells += map(str, map(len, lists))
        else:
            cells.append("skipped" if row.skipped else "failed")
        drawn.add_row(*cells)
    return drawn
