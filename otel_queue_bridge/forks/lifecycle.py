"""What a process has to do where it is forked and where it ends.

While nobody takes part, and nothing was ever counted, a fork costs a look or two.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol

import wrapt
from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider

from otel_queue_bridge.forks import relay
from otel_queue_bridge.forks.sdk import Held
from otel_queue_bridge.instruments import all_instruments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from otel_queue_bridge.forks.relay import Line

_logger = logging.getLogger("otel_queue_bridge")


class Participant(Protocol):
    """Whoever has to know of forks: one instrumented queue."""

    def providers(self) -> Iterable[object]:
        """Return the providers that it was handed; the global ones are known."""

    def enter_child(self, line: Line | None) -> None:
        """In a forked child: forget the parent's state; report by the line, if there is one."""

    def holding(self) -> Iterable[object]:
        """Return the providers that may hold what no other process exports."""

    def patience(self) -> float:
        """Return how many seconds the last export may take."""


_LAST = -1000
"""The priority of a finalizer of multiprocessing: lower ones come later."""

_participants: list[Participant] = []
_line: Line | None = None
"""In a forked child: the way to the process that reports for it."""
_forking = threading.local()
"""What the thread that forks has prepared."""
_registered = False
_hanging: list[object] = []
"""Providers whose last export has not ended in time: it is not tried again."""


def join(participant: Participant) -> None:
    """Take part in every fork from now on."""
    global _registered  # noqa: PLW0603 - it cannot be taken back, and is done once for a process
    if not _registered and hasattr(os, "register_at_fork"):
        _registered = True
        os.register_at_fork(
            before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
        )
        wrapt.register_post_import_hook(_end_well, "multiprocessing.util")  # billiard uses it, too
    _participants.append(participant)


def participants() -> tuple[Participant, ...]:
    return tuple(_participants)


def leave(participant: Participant) -> None:
    """Take part no more."""
    global _line  # noqa: PLW0603 - of the process, as its parent
    if participant in _participants:
        _participants.remove(participant)
    if not _participants and _line is not None:
        _line.close()
        _line = None


def _contained(action: Callable[..., Any], *arguments: object) -> Any:
    try:
        return action(*arguments)
    except Exception as error:  # noqa: BLE001 - a fork of the host must not fail
        _logger.warning("%s in %s at a fork", type(error).__name__, action.__qualname__)
        return None


def _before() -> None:
    # What was counted is there after an undo, too: a child must not export it once more.
    made = _contained(all_instruments) or ()
    counting = [provider for provider, instruments in made if instruments.counted()]
    if not _participants and not counting:
        return
    providers: list[object] = [
        *counting,
        trace.get_tracer_provider(),
        metrics.get_meter_provider(),
        get_logger_provider(),
    ]
    for participant in tuple(_participants):
        providers += _contained(participant.providers) or ()
    _forking.held = _contained(Held, providers)
    _forking.opened = _contained(relay.opened)


def _after_in_parent() -> None:
    held, opened = _prepared()
    if held is not None:
        _contained(held.release)
    if opened is not None:
        _contained(opened.in_parent)


def _after_in_child() -> None:
    global _line  # noqa: PLW0603 - of the process, as its parent
    held, opened = _prepared()
    _hanging.clear()
    if held is not None:
        _contained(held.start_over)
        _contained(held.release)
        _contained(held.register)
    if opened is not None:
        _line = _contained(opened.in_child)
    _contained(relay.leave_all)
    for participant in tuple(_participants):
        _contained(participant.enter_child, _line)


def _prepared() -> tuple[Any, Any]:
    prepared = getattr(_forking, "held", None), getattr(_forking, "opened", None)
    _forking.held = _forking.opened = None
    return prepared


def _end_well(util: Any) -> None:
    """Have the children of multiprocessing export what they hold: they run no exit handlers."""

    def prepare(_: object) -> None:
        if _participants:  # behind all that others have to do, who may still record
            util.Finalize(None, _flush_all, exitpriority=_LAST)

    # In the child, and after `BaseProcess._bootstrap` has cleared what the parent registered.
    util.register_after_fork(_flush_all, prepare)


def _flush_all() -> None:
    participants = tuple(_participants)
    providers = [one for participant in participants for one in participant.holding()]
    flush(max((one.patience() for one in participants), default=0.0), *providers)


def flush(timeout: float, *providers: object) -> None:
    """Export what this process, which is about to end, still holds; within `timeout` seconds.

    In threads, since `BatchSpanProcessor.force_flush` ignores its timeout (SDK 1.45).
    """
    if timeout <= 0:
        return
    deadline = time.monotonic() + timeout
    threads = [
        (
            provider,
            threading.Thread(
                target=_export, args=(provider,), name="otel_queue_bridge.flush", daemon=True
            ),
        )
        for provider in dict.fromkeys(providers)
        if hasattr(provider, "force_flush") and not any(one is provider for one in _hanging)
    ]
    try:
        for _, thread in threads:
            thread.start()
    except RuntimeError:  # the interpreter is shutting down: the SDK's own export comes next
        return
    for _, thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    late = [provider for provider, thread in threads if thread.is_alive()]
    if late:
        _hanging.extend(late)
        _logger.warning(
            "process %d could not export all it held within flush_timeout (%s s)",
            os.getpid(),
            timeout,
        )


def _export(provider: Any) -> None:
    try:
        provider.force_flush()
    except Exception as error:  # noqa: BLE001 - a span processor of the user's
        _logger.warning("%s while exporting what was left", type(error).__name__)
