"""`otel-queue-bridge doctor`: find out why nothing arrives, and what to do about it."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING

from otel_queue_bridge.cli.doctor import (
    broker,
    export,
    frameworks,
    loading,
    options,
    patched,
    serializers,
    tracing,
    versions,
)
from otel_queue_bridge.cli.doctor.findings import Finding, problem
from otel_queue_bridge.cli.doctor.libraries import libraries
from otel_queue_bridge.cli.masking import header_values, masked

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterable, Iterator

SCHEMA_VERSION = 1
"""Of what `--json` prints; it grows when a field changes its meaning or goes."""
_SHORTEST = 8
"""A header's value is hidden everywhere if it has this length; shorter ones may be plain words."""


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print all findings as JSON")
    parser.add_argument("--verbose", action="store_true", help="show what is fine, too")
    parser.add_argument("--probe", action="store_true", help="send one span to the collector")
    parser.add_argument(
        "--broker",
        type=broker.broker_url,
        metavar="URL",
        help="connect to the broker (redis://, amqp://), and compare the clock of Redis with ours",
    )


def run(chosen: Namespace) -> int:
    """Check everything and show what was found; return 1 if something is broken."""
    # OpenTelemetry treats an empty variable as one that is not set.
    environment = {name: value for name, value in os.environ.items() if value.strip()}
    config = options.effective(os.environ)
    found = libraries(config)
    checks = {
        "versions": versions.findings(found),
        "loading": loading.findings(environment, found, config),
        "web frameworks": frameworks.findings(environment),
        "patched now": patched.findings(environment, found, config),
        "options": options.findings(os.environ, config),
        "export": export.findings(environment, send_span=chosen.probe),
        "gauges": options.gauges(config, found),
        "forks": options.forks(config),
        "propagation": chain(tracing.propagation(environment), serializers.findings()),
        "sampling": tracing.sampling(environment),
        "privacy": options.privacy(config),
        "broker": broker.findings(chosen.broker),
    }
    secrets = {value for value in header_values(environment) if len(value) >= _SHORTEST}
    report = {
        check: [_masked(finding, secrets) for finding in _contained(findings)]
        for check, findings in checks.items()
    }
    sys.stdout.write(as_json(report) if chosen.json else as_text(report, all_of_it=chosen.verbose))
    return int(any(finding.level == "problem" for found in report.values() for finding in found))


def as_json(report: dict[str, list[Finding]]) -> str:
    """Write all findings, in the order of the checks."""
    entries = [
        {"check": check, **finding._asdict()}
        for check, findings in report.items()
        for finding in findings
    ]
    return json.dumps({"schema_version": SCHEMA_VERSION, "findings": entries}, indent=2) + "\n"


def as_text(report: dict[str, list[Finding]], *, all_of_it: bool = False) -> str:
    """Write what is wrong, worst first and with its advice; what is fine only if all is wanted."""
    found = [(check, finding) for check, findings in report.items() for finding in findings]
    counted = Counter(finding.level for _, finding in found)
    lines = []
    for level in ("problem", "warning", "ok") if all_of_it else ("problem", "warning"):
        for check, finding in found:
            if finding.level == level:
                lines.append(f"{level:8} {check}: {finding.message}")
                lines += [f"         > {finding.advice}"] if finding.advice else []
    lines += [""] if lines else []
    lines.append(f"problems: {counted['problem']}, warnings: {counted['warning']}")
    if not all_of_it:
        lines[-1] += f"; fine: {counted['ok']}, shown by --verbose"
    return "".join(f"{_printable(line)}\n" for line in lines)


def _contained(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Report a check that fails as a finding, so that the others still run."""
    try:
        yield from findings
    except Exception as error:  # noqa: BLE001 - environments are stranger than we can think of
        yield problem(
            f"this check itself failed: {type(error).__name__}: {error}",
            "please report it, with this line",
        )


def _masked(finding: Finding, secrets: set[str]) -> Finding:
    level, message, advice, details = finding
    shown = {
        name: masked(value, secrets) if isinstance(value, str) else value
        for name, value in details.items()
    }
    return Finding(level, masked(message, secrets), masked(advice, secrets), shown)


def _printable(text: str) -> str:
    # A server's answer could hold control sequences for the terminal.
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text
    )
