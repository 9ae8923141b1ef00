"""Make the package page from README.md, at build time.

README's links and pictures are relative to the repository, and lead nowhere on a package page. With
the repository's `address` (pyproject.toml) they become absolute. Without one, links become plain
text and pictures are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

BRANCH = "main"
CODE = r"(?<!`)(`+)(?!`).*?(?<!`)\2(?!`)"
TEXT = r"(?:[^\[\]]|\[[^\[\]]*\])*"  # may hold one link, picture or pair of brackets
PIECE = re.compile(
    rf"(?P<code>{CODE})|(?P<mark>!?)\[(?P<text>{TEXT})\]\((?P<target>[^()\s]+)\)", re.DOTALL
)


class PackagePage(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        """Set what pyproject.toml calls dynamic: the description, and the URLs if there are any."""
        address = self.config["address"]
        text = described(Path(self.root), address)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
        if address:
            metadata["urls"] = {
                "Homepage": address,
                "Documentation": f"{address}/tree/{BRANCH}/docs",
                "Issues": f"{address}/issues",
            }


def described(root: Path, address: str) -> str:
    def piece(found: re.Match[str]) -> str:
        if found["code"]:
            return found[0]
        mark, text, target = found["mark"], PIECE.sub(piece, found["text"]), found["target"]
        if re.match(r"[a-z]+:", target):
            return f"{mark}[{text}]({target})"
        if not address:
            return "" if mark else text
        if target.startswith("#"):
            return f"[{text}]({address}{target})"
        kind = "raw" if mark else "tree" if (root / target).is_dir() else "blob"
        return f"{mark}[{text}]({address}/{kind}/{BRANCH}/{target})"

    return PIECE.sub(piece, (root / "README.md").read_text(encoding="utf-8"))
