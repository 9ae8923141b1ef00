"""The docs: generated pages are current, links lead somewhere, commands exist."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from otel_queue_bridge.cli import COMMANDS
from otel_queue_bridge.config import ABOUT, OPTIONS, VARIABLE, unknown_variables
from tests.servers import LIMIT

ROOT = Path(__file__).parents[1]
SITE = sorted(ROOT.glob("docs/**/*.md"))
PAGES = [*sorted(ROOT.glob("*.md")), *SITE, *sorted(ROOT.glob("examples/**/*.md"))]
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
COMMAND = r"(?:\$ |`)otel-queue-bridge ([a-z]+)((?: --[\w-]+)*)"
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["options.md", "reference.md"])
def test_a_generated_page_is_current(page: str) -> None:
    assert (ROOT / "docs" / page).read_text() == generator().PAGES[page](), "run `make docs`"


def test_every_option_is_explained() -> None:
    assert ABOUT.keys() == OPTIONS.keys()


def anchors(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(CODE.sub("", page.read_text())):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), target
        assert not anchor or anchor in anchors(other), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_our_variables_and_commands_exist(page: Path) -> None:
    text = page.read_text()
    named = {name.rstrip("_") for name in re.findall(rf"{VARIABLE}[A-Z_]+", text)}
    assert not unknown_variables(dict.fromkeys(named, "x"))
    for command, options in re.findall(
        r"(?:\$ |`)otel-queue-bridge ([a-z]+)((?: --[\w-]+)*)", text
    ):
        assert command in COMMANDS
        if options:
            said = subprocess.run(
                [sys.executable, "-m", "otel_queue_bridge", command, "--help"],
                capture_output=True,
                text=True,
                check=True,
                timeout=LIMIT,
            ).stdout
            assert all(option in said for option in shlex.split(options))


def test_every_example_is_listed() -> None:
    listed = set(
        re.findall(r"^\| \[?(\w+)", (ROOT / "examples/README.md").read_text(), re.MULTILINE)
    )
    assert {page.parent.name for page in ROOT.glob("examples/*/README.md")} <= listed


def in_nav(entry: object) -> list[str]:
    if isinstance(entry, str):
        return [entry]
    parts = entry if isinstance(entry, list) else entry.values()
    return [page for part in parts for page in in_nav(part)]


def test_the_site_has_every_page_once() -> None:
    nav = in_nav(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(nav) == sorted(str(page.relative_to(ROOT / "docs")) for page in SITE)


def test_python_in_the_readme_compiles() -> None:
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        compile(block, "README.md", "exec")
