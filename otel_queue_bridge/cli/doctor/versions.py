"""Compare the versions that are installed with those that were tested."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from typing import TYPE_CHECKING

from opentelemetry.instrumentation.dependencies import get_dependency_conflicts
from packaging.requirements import Requirement

from otel_queue_bridge import versions
from otel_queue_bridge.cli.doctor.findings import ok, problem, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from otel_queue_bridge.cli.doctor.findings import Finding
    from otel_queue_bridge.cli.doctor.libraries import Library

_OURS = "otel-queue-bridge"


def installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def findings(libraries: list[Library]) -> Iterator[Finding]:
    yield _python()
    yield ok(f"{_OURS} {version(_OURS)}")
    for line in requires(_OURS) or ():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _required(requirement)
    yield _sdk()
    for library in libraries:
        yield _queue(library)
    if not any(library.works for library in libraries):
        yield warning(
            "no queue library that can be instrumented is installed in this environment",
            "run doctor with the Python of the web app or the worker",
        )


def _python() -> Finding:
    found = platform.python_version()
    minor = ".".join(found.split(".")[:2])
    classifiers = metadata(_OURS).get_all("Classifier") or ()
    if f"Programming Language :: Python :: {minor}" in classifiers:
        return ok(f"Python {found}")
    return warning(f"Python {found} is not tested", "use a tested one: see the README")


def _required(requirement: Requirement) -> Finding:
    found = installed(requirement.name)
    if get_dependency_conflicts([requirement]) is None:
        return ok(f"{requirement.name} {found}")
    return problem(
        f"{requirement.name} is {found or 'missing'}, but {requirement} is needed",
        f"pip install '{requirement}'",
    )


def _sdk() -> Finding:
    sdk, api = installed("opentelemetry-sdk"), installed("opentelemetry-api")
    if sdk is None:
        return problem(
            "opentelemetry-sdk is not installed: nothing can be recorded",
            "pip install opentelemetry-distro opentelemetry-exporter-otlp-proto-http",
        )
    if sdk != api:
        return warning(
            f"opentelemetry-sdk {sdk} needs the API of the same version, but {api} is installed",
            f"pip install opentelemetry-sdk=={api}",
        )
    return ok(f"opentelemetry-sdk {sdk}")


def _queue(library: Library) -> Finding:
    queue, adapter, conflict, error, allowed = library
    if error or adapter is None:
        return problem(
            f"the adapter of {queue} cannot be loaded: {error}", "update or remove its package"
        )
    tested = versions.range_of(adapter)
    if conflict is None:
        names = [Requirement(requirement).name for requirement in versions.required(adapter)]
        here = ", ".join(f"{name} {installed(name)}" for name in names)
        return ok(f"{here} (tested: {tested})", queue=queue)
    if conflict.found is None:
        return ok(f"{queue} is not installed (tested: {tested})", queue=queue)
    install = "pip install " + " ".join(
        f"'{requirement}'" for requirement in versions.required(adapter)
    )
    if not (allowed and isinstance(conflict, versions.Untested)):
        return problem(
            f"{conflict.found} is not instrumented: it is outside the tested range, {tested}",
            f"{install}, or export {versions.ALLOW}",
            queue=queue,
        )
    return warning(conflict.tolerated(versions.lacking(adapter)), install, queue=queue)
