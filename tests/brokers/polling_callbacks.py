"""A user's callback, which RQ finds by its path."""

from opentelemetry.instrumentation.utils import is_instrumentation_enabled

called: list[bool] = []


def job() -> None:
    """Never run: its worker is gone."""


def fail(*_: object) -> None:
    called.append(is_instrumentation_enabled())
