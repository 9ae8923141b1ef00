"""Say in one line which newest releases lie outside what this environment has tested.

It asks pip, and it never fails: a new release is no reason to stop a build.
"""

import json
import subprocess
import sys
from importlib.metadata import distributions, requires

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from otel_queue_bridge.instrumentor import adapter_named, adapters

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install")


def main() -> None:
    here = {one.name: one.version for one in distributions()}
    tested = {
        name: (allowed, Version(here[name])) for name, allowed in ranges().items() if name in here
    }
    try:
        published = newest(sorted(tested))
    except (subprocess.CalledProcessError, ValueError, KeyError) as error:
        say(f"nobody knows, because pip failed ({type(error).__name__})")
        return
    outside = []
    for name, latest in published.items():
        allowed, had = tested[name]
        if not allowed.contains(latest, prereleases=True):
            outside.append(f"{name} {latest} (allowed is {allowed})")
        elif latest.release[:2] > had.release[:2]:
            outside.append(f"{name} {latest} (tested was {had})")
    if outside:
        say(f"outside what was tested: {', '.join(sorted(outside))}")
    else:
        say(f"what was tested has the newest release of all {len(published)} packages")


def say(what: str) -> None:
    print(f"newest: {what}")


def ranges() -> dict[str, SpecifierSet]:
    """Return which versions we allow of the queue libraries, OpenTelemetry's packages and wrapt."""
    lines = [line for queue in adapters() for line in adapter_named(queue).tested]
    found = {one.name: one.specifier for one in map(Requirement, lines)}
    for one in map(Requirement, requires("otel-queue-bridge") or ()):
        if one.name.startswith("opentelemetry-") or one.name == "wrapt":
            found[one.name] = found.get(one.name, SpecifierSet()) & one.specifier
    for installed in distributions():  # dependency groups are no requirements
        if installed.name.startswith("opentelemetry-"):
            found.setdefault(installed.name, SpecifierSet())
    return found


def newest(names: list[str]) -> dict[str, Version]:
    """Ask what pip would install, if nothing else held it back."""
    options = ("--dry-run", "--no-deps", "--ignore-installed", "--report", "-")
    asked = subprocess.run([*PIP, *options, *names], capture_output=True, check=True)
    metadata = [one["metadata"] for one in json.loads(asked.stdout)["install"]]
    return {one["name"].lower(): Version(one["version"]) for one in metadata}


main()
