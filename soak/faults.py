"""What can go wrong, and what it may cost.

A fault lasts while the second of three loads runs. Before and after it everything is as usual:
what was submitted then must be recorded exactly, whatever the fault.
"""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from otel_queue_bridge.testing.processes import wait_until
from soak import collector, switch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from soak.run import Run

_STOPPED = 1.0  # seconds

JUNK = (
    "traceparent",
    1,
    None,
    ["traceparent"],
    {"traceparent": 1, "tracestate": [], "baggage": {}, "otel-submitted": {}},
    {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "baggage": "=,;=" * 2000},
    {"traceparent": "ff-" + "f" * 100_000, "tracestate": "\x00\ud7ff,=,"},
    {"otel-attempt": "9" * 5000, "otel-submitted": "nan", "otel-planned": "inf"},
    {"otel-attempt": {}, "otel-name": 7, "otel-set-up": [], "otel-delayed": "x"},
)
"""Carriers of hostile messages."""


def _nothing(_: Run) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(frozen=True)
class Fault:
    during: Callable[[Run], AbstractContextManager[object]] = _nothing
    """Lasts from before the second load until all of it has run."""
    strike: Callable[[Run], None] | None = None
    """Happens once, while some of it runs."""
    how: str = "plain"
    """How the second load is submitted."""
    env: Mapping[str, str] = field(default_factory=dict)
    spans: bool = False
    """Whether spans of the second load may be lost."""
    counts: bool = False
    """Whether counts of the second load may be lost."""
    tasks: bool = False
    """Whether tasks of the second load may be lost or run twice, as many as a worker holds."""
    reaches_tasks: bool = False
    """Whether it is there without us, too: so it is in the control."""


@contextmanager
def _switched(run: Run) -> Iterator[None]:
    asked = switch.asked(run.folder)
    asked.touch()
    yield
    asked.unlink()
    wait_until(lambda: switch.all_on(run.folder), what="all processes are instrumented again")


def _stop_worker(run: Run) -> None:
    run.stop_worker()
    run.start_worker()


def _kill_worker(run: Run) -> None:
    run.kill_worker()
    run.start_worker()


def _pause_worker(run: Run) -> None:
    run.signal_worker(signal.SIGSTOP)
    time.sleep(_STOPPED)
    run.signal_worker(signal.SIGCONT)


def _kill_child(run: Run) -> None:
    run.kill_child()


def _restart_broker(run: Run) -> None:
    run.restart_broker()


FAULTS = {
    "none": Fault(),
    "collector-gone": Fault(lambda run: run.collector.gone(), spans=True),
    "collector-hangs": Fault(lambda run: run.collector.being(collector.HANGING), spans=True),
    "collector-slow": Fault(lambda run: run.collector.being(collector.SLOW)),
    "collector-fails": Fault(lambda run: run.collector.being(collector.FAILING), spans=True),
    "broker-restarts": Fault(strike=_restart_broker, tasks=True, reaches_tasks=True),
    "worker-stops": Fault(strike=_stop_worker, reaches_tasks=True),
    "worker-killed": Fault(
        strike=_kill_worker, spans=True, counts=True, tasks=True, reaches_tasks=True
    ),
    "worker-paused": Fault(strike=_pause_worker, reaches_tasks=True),
    "child-killed": Fault(strike=_kill_child, tasks=True, reaches_tasks=True),
    "forks": Fault(
        how="forks", env={"OTEL_BSP_SCHEDULE_DELAY": "5", "OTEL_METRIC_EXPORT_INTERVAL": "20"}
    ),
    "hostile": Fault(how="hostile"),
    "switched": Fault(_switched, env={switch.SWITCHING: "1"}, spans=True, counts=True),
}
