"""Write the files that the package carries."""

from __future__ import annotations

import shutil
from pathlib import Path

from dashboards.boards import boards
from dashboards.rules import rules
from otel_queue_bridge.semconv import NAMINGS

FILES = Path(__file__).parents[1] / "otel_queue_bridge" / "cli" / "dashboards"


def files() -> dict[str, str]:
    """Return what each file holds, by its path below `FILES`."""
    return {
        f"{naming}/{name}": text
        for naming in NAMINGS
        for name, text in {**boards(naming), "rules.yml": rules(naming)}.items()
    }


if __name__ == "__main__":
    for naming in NAMINGS:
        shutil.rmtree(FILES / naming, ignore_errors=True)
        (FILES / naming).mkdir()
    for path, text in files().items():
        (FILES / path).write_text(text, encoding="utf-8")
