"""What is published: its page, its files, and the extras that our sentences name."""

import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import metadata
from pathlib import Path

import pytest

from otel_queue_bridge.cli import COMMANDS
from tests.servers import LIMIT

ROOT = Path(__file__).parents[1]
ADDRESS = "https://code.example/queue-bridge"


def wheel(folder: Path, address: str) -> zipfile.ZipFile:
    for name in ("README.md", "LICENSE", "pyproject.toml", "hatch_build.py"):
        shutil.copy(ROOT / name, folder)
    for name in ("otel_queue_bridge", "docs", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    project = folder / "pyproject.toml"
    project.write_text(project.read_text().replace('address = ""', f'address = "{address}"'))
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert built.returncode == 0, built.stderr
    (file,) = (folder / "dist").glob("*.whl")
    return zipfile.ZipFile(file)


def page(built: zipfile.ZipFile) -> tuple[str, str]:
    """Return the headers of the metadata, and the description."""
    (name,) = (name for name in built.namelist() if name.endswith("/METADATA"))
    headers, _, text = built.read(name).decode().partition("\n\n")
    return headers, text


def test_without_an_address_nothing_leads_astray(tmp_path: Path) -> None:
    with wheel(tmp_path, "") as built:
        headers, text = page(built)
    assert "Project-URL:" not in headers
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert "![" not in outside
    assert not re.search(r"\]\((?!https?://)", outside)
    assert "Three recipes to copy: Django and Celery," in text


def test_with_an_address_links_and_pictures_are_absolute(tmp_path: Path) -> None:
    with wheel(tmp_path, ADDRESS) as built:
        headers, text = page(built)
    assert f"Project-URL: Homepage, {ADDRESS}" in headers
    assert f"({ADDRESS}/raw/main/docs/trace.png)" in text
    assert f"({ADDRESS}/blob/main/docs/options.md)" in text
    assert f"({ADDRESS}/tree/main/examples/fastworker)" in text
    assert f"({ADDRESS}#django-and-celery)" in text
    assert not re.search(r"\]\((?!https?://)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def test_a_wheel_has_the_page_and_the_types(tmp_path: Path) -> None:
    with wheel(tmp_path, "") as built:
        names = set(built.namelist())
    carried = ("view/page/*", "cli/dashboards/*/*.*")
    package = ROOT / "otel_queue_bridge"
    files = {str(path.relative_to(ROOT)) for names in carried for path in package.glob(names)}
    files = {name for name in files if "__pycache__" not in name}
    assert names >= files | {"otel_queue_bridge/py.typed"}
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "docs/"))]


def test_the_source_archive_has_every_file_of_git() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    taken = set(
        re.findall(r'^    "([\w./-]+)",$', project.partition("only-include")[2], re.MULTILINE)
    )
    git = ["git", "ls-files"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no clone")
    tops = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    assert tops - {".gitignore"} <= taken


@pytest.mark.parametrize("folder", ["otel_queue_bridge", "docs", "examples", "README.md"])
def test_every_extra_that_is_named_exists(folder: str) -> None:
    known = set(metadata("otel-queue-bridge").get_all("Provides-Extra") or ())
    top = ROOT / folder
    files = [top] if top.is_file() else [*top.rglob("*.py"), *top.rglob("*.js"), *top.rglob("*.md")]
    named = {
        extra.strip()
        for file in files
        for listed in re.findall(r"otel-queue-bridge\[([\w, -]+)\]", file.read_text())
        for extra in listed.split(",")
    }
    assert named | {command.extra for command in COMMANDS.values()} - {""} <= known
