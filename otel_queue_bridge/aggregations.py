"""The SDK's aggregation for one attribute set of a histogram: looked up once, not at each record.

`Histogram.record` (SDK 1.45) cleans, copies, sorts and hashes the attributes each time, which
costs more than all the rest. There is no public way around that, so this reaches into the SDK.
Import it only where the SDK is there; where it looks different, `feeder` raises.
"""

from __future__ import annotations

from time import time_ns
from typing import TYPE_CHECKING, Any

from opentelemetry.context import get_current
from opentelemetry.sdk.metrics import Histogram
from opentelemetry.sdk.metrics._internal._view_instrument_match import _hash_attributes
from opentelemetry.sdk.metrics._internal.measurement import Measurement
from opentelemetry.sdk.metrics.export import AggregationTemporality

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.context import Context
    from opentelemetry.util.types import Attributes


class UnknownSdkError(Exception):
    """Raised for a histogram that has to be fed through its public `record`."""


class _Measurement:
    """Has the fields of the SDK's `Measurement`, but does not clean the attributes again."""

    __slots__ = ("attributes", "context", "instrument", "time_unix_nano", "value")

    def __init__(
        self, value: float, time: int, instrument: object, context: Context, attributes: Attributes
    ) -> None:
        self.value = value
        self.time_unix_nano = time
        self.instrument = instrument
        self.context = context
        self.attributes = attributes


def feeder(histogram: Any, attributes: dict[str, str | bool | int]) -> Callable[[float], bool]:
    """Return a function that records a value; it does not, and returns False, if readers changed.

    Raises UnknownSdkError, or AttributeError where an SDK has other parts. With delta temporality
    the SDK starts over at each collection, so there is nothing to keep.
    """
    if not isinstance(histogram, Histogram):
        raise UnknownSdkError(type(histogram).__name__)
    consumer: Any = histogram._measurement_consumer  # noqa: SLF001
    storages = consumer._reader_storages  # noqa: SLF001 - the consumer replaces it if readers change
    config = consumer._sdk_config  # noqa: SLF001
    cleaned = Measurement(0, 0, histogram, get_current(), attributes).attributes
    matches = [
        (storage._instrument_class_temporality[type(histogram)], match)  # noqa: SLF001
        for storage in storages.values()
        for match in storage._get_or_init_view_instrument_match(histogram)  # noqa: SLF001
    ]
    if any(temporality is AggregationTemporality.DELTA for temporality, _ in matches):
        raise UnknownSdkError("delta")
    aggregates = tuple(_aggregation(match, dict(cleaned or {})).aggregate for _, match in matches)
    is_enabled = histogram._is_enabled  # noqa: SLF001

    def feed(value: float) -> bool:
        if consumer._reader_storages is not storages:  # noqa: SLF001
            return False
        if not is_enabled():
            return True
        now, context = time_ns(), get_current()
        sampled = config.exemplar_filter.should_sample(value, now, cleaned, context)
        measurement = _Measurement(value, now, histogram, context, cleaned)
        for aggregate in aggregates:
            aggregate(measurement, sampled)
        return True

    return feed


def _aggregation(match: Any, attributes: dict[str, Any]) -> Any:
    keys = match._view._attribute_keys  # noqa: SLF001
    if keys is not None:
        attributes = {name: value for name, value in attributes.items() if name in keys}
    with match._lock:  # noqa: SLF001
        return match._get_or_create_aggregation(_hash_attributes(attributes), attributes)  # noqa: SLF001
