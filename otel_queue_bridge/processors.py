"""Hear of the spans of somebody else's provider for a while."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import SpanProcessor


@contextmanager
def attached(provider: Any, processor: SpanProcessor) -> Iterator[None]:
    """Have the provider call this processor inside the `with`.

    The SDK (1.45) has no public way to remove one. Where its inside has moved, the processor stays:
    so it has to do nothing any more by then.
    """
    provider.add_span_processor(processor)
    try:
        yield
    finally:
        together: Any = getattr(provider, "_active_span_processor", None)
        if hasattr(together, "_span_processors") and hasattr(together, "_lock"):
            with together._lock:  # noqa: SLF001
                kept = [one for one in together._span_processors if one is not processor]  # noqa: SLF001
                together._span_processors = tuple(kept)  # noqa: SLF001
