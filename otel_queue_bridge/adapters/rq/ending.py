"""The end of a job's attempt, as far as this process has seen it."""

from __future__ import annotations

from typing import Any

from otel_queue_bridge.adapter import RETRY, SUCCESS, Outcome, failed


class Ending:
    """What RQ does with a job after its function has run; `perform_job` itself raises nothing."""

    __slots__ = ("error", "exhausted", "retried")

    def __init__(self) -> None:
        self.retried = False
        self.exhausted = False
        """Whether the job asked for a retry when it had none left."""
        self.error: BaseException | None = None

    @staticmethod
    def of(job: Any) -> Ending | None:
        """Return the ending of the attempt that this process is to report."""
        ending: Ending | None = vars(job).get("otel_ending")
        return ending

    def outcome(self, raised: BaseException | None) -> Outcome:
        """Return the outcome; `raised` is usually RQ's own error, since RQ keeps those of jobs."""
        error, self.error = self.error or raised, None
        if self.retried:
            return RETRY if error is None else Outcome("retry", error)
        if error is not None:
            return failed(error)
        if self.exhausted:
            return Outcome("failure", error_type="max_retries_exceeded")
        return SUCCESS
