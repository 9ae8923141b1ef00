"""One run of a message while it lasts: the calls inside it show how it ends."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from otel_queue_bridge.adapter import CANCELLED, RETRY, SUCCESS, Call, Outcome, Recorder, failed
from otel_queue_bridge.adapters.dramatiq.reading import hide

if TYPE_CHECKING:
    from collections.abc import Generator

_ABORT = "dramatiq_abort.abort_manager.Abort"
_QUIET = {
    _ABORT,
    "dramatiq.errors.RateLimitExceeded",
    "dramatiq.errors.Retry",
    "dramatiq.middleware.shutdown.Shutdown",
}
"""Exceptions that ask for another attempt when nothing is wrong."""


class Run:
    """One run of a message; `process_message` neither returns nor raises any of this."""

    def __init__(self, message: Any, throws: Any) -> None:
        self._message_id = message.message_id
        self._retries = message.options.get("retries", 0)
        self.enqueued_again = False
        self.skipped = False
        self._throws = throws
        self._failed = False
        self._error: BaseException | None = None

    def retries(self, message: Any) -> bool:
        """Tell whether this message is a retry of the one that runs, and not a new task."""
        same: bool = message.message_id == self._message_id
        return same and message.options.get("retries", 0) != self._retries

    def note(self, message: Any) -> None:
        self._failed = message.failed
        self._error = message._exception  # noqa: SLF001 - gone before `process_message` returns

    def outcome(self, raised: BaseException | None) -> Outcome:
        """Return the outcome; an error that `process_message` itself `raised` ends the thread."""
        error, self._error = self._error, None
        if raised is not None:
            return failed(raised)
        if self.skipped:
            return CANCELLED
        if error is None:  # a middleware may fail a message without an error
            return Outcome("failure") if self._failed else SUCCESS
        kinds = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
        if self.enqueued_again and not self._failed:
            return RETRY if kinds & _QUIET else Outcome("retry", error)
        if _ABORT in kinds:
            return CANCELLED
        return failed(error, expected=bool(self._throws) and isinstance(error, self._throws))


current: ContextVar[Run | None] = ContextVar("otel_queue_bridge.dramatiq.attempt", default=None)

listens: ContextVar[bool | None] = ContextVar("otel_queue_bridge.dramatiq.listens", default=None)
"""Set where a signal may matter: in a run, and while a broker of the user's enqueues."""


def note_end(call: Call, recorder: Recorder) -> Generator[None, None, None]:
    run, message = current.get(), call.argument(0, "message")
    hide(message)  # one that waited for its ETA shows its carrier
    if run is not None:
        run.note(message)
        return
    with recorder.polling():  # a consumer is done with a message that has not been run
        yield


def note_skip() -> None:
    run = current.get()
    if run is not None:
        run.skipped = True
