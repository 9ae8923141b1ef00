"""How a job's attempt ended, as far as this process has seen it."""

from __future__ import annotations

from typing import Any

from otel_queue_bridge.adapter import RETRY, SUCCESS, Outcome, failed


class Ending:
    """What RQ does with a job after its function; `perform_job` itself raises nothing."""

    __slots__ = ("error", "exhausted", "retried")

    def __init__(self) -> None:
        self.retried = False
        self.exhausted = False
        """Whether the job asked for one retry too many."""
        self.error: BaseException | None = None

    def outcome(self, raised: BaseException | None) -> Outcome:
        """Return it; `raised` comes from RQ itself, which usually keeps what a job raises."""
        error, self.error = self.error or raised, None
        if self.retried:
            return RETRY if error is None else Outcome("retry", error)
        if error is not None:
            return failed(error)
        if self.exhausted:
            return Outcome("failure", error_type="max_retries_exceeded")
        return SUCCESS


def of(job: Any) -> Ending | None:
    """Return the one of the attempt that this process reports."""
    ending: Ending | None = vars(job).get("otel_ending")
    return ending
