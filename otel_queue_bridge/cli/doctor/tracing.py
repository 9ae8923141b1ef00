"""Check the propagators and the sampler that OpenTelemetry's own variables choose."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from otel_queue_bridge.cli.doctor.findings import ok, problem, warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from otel_queue_bridge.cli.doctor.findings import Finding

_DEFAULT_PROPAGATORS = "tracecontext,baggage"
_DEFAULT_SAMPLER = "parentbased_always_on"
_PACKAGES = {
    "b3": "opentelemetry-propagator-b3",
    "b3multi": "opentelemetry-propagator-b3",
    "jaeger": "opentelemetry-propagator-jaeger",
    "ottrace": "opentelemetry-propagator-ot-trace",
    "xray": "opentelemetry-propagator-aws-xray",
}


def propagation(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Check OTEL_PROPAGATORS without OpenTelemetry, whose import fails on an unknown name."""
    chosen = environment.get("OTEL_PROPAGATORS", _DEFAULT_PROPAGATORS)
    names = [name.strip() for name in chosen.split(",")]
    if "none" in map(str.lower, names):
        yield warning("no trace is propagated", "unset OTEL_PROPAGATORS")
        return
    known = sorted(point.name for point in entry_points(group="opentelemetry_propagator"))
    unknown = [name for name in names if name not in known]
    for name in unknown:
        yield problem(
            f"there is no propagator {name!r}: OpenTelemetry cannot be imported",
            f"pip install {_PACKAGES[name]}"
            if name in _PACKAGES
            else f"choose from {', '.join(known)}: export OTEL_PROPAGATORS={_DEFAULT_PROPAGATORS}",
        )
    if "tracecontext" not in names:
        yield warning(
            "the trace does not travel in W3C's traceparent: all sides must use the same format",
            f"export OTEL_PROPAGATORS=tracecontext,{','.join(names)}",
        )
    elif not unknown:
        yield ok(f"propagators: {', '.join(names)}")


def sampling(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Check what keeps spans from being recorded."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield problem("OTEL_SDK_DISABLED=true: nothing is recorded", "unset OTEL_SDK_DISABLED")
    name = environment.get("OTEL_TRACES_SAMPLER", _DEFAULT_SAMPLER).strip()
    known = {point.name for point in entry_points(group="opentelemetry_traces_sampler")}
    if known and name not in known:
        yield problem(
            f"there is no sampler {name!r}: every trace is recorded",
            f"choose from {', '.join(sorted(known))}",
        )
    elif name.endswith("always_off"):
        whose = "no trace that begins here" if name.startswith("parentbased") else "no trace"
        yield warning(f"sampler {name}: {whose} is recorded", "unset OTEL_TRACES_SAMPLER")
    elif name.endswith("traceidratio"):
        yield _ratio(name, environment.get("OTEL_TRACES_SAMPLER_ARG", ""))
    else:
        yield ok(f"sampler: {name}")


def _ratio(sampler: str, argument: str) -> Finding:
    advice = "export OTEL_TRACES_SAMPLER_ARG=0.1"
    try:
        ratio = float(argument)
    except ValueError:
        message = f"sampler {sampler}: its ratio {argument!r} is not a number, so 1.0 is used"
        return warning(message, advice)
    if not 0 <= ratio <= 1:
        message = f"sampler {sampler}: {ratio:g} is not between 0 and 1, every trace is recorded"
        return problem(message, advice)
    if ratio == 0:
        return warning(f"sampler {sampler}: ratio 0 records no trace that begins here", advice)
    return ok(f"sampler: {sampler}, ratio {ratio:g}", ratio=ratio)
