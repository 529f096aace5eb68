#!/usr/bin/env python3
"""Writes the address of the repository wherever it stands: metadata of the package, site, citation, README, quickstart.

python .ci/address.py https://HOST/OWNER/ciao_peft
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("pyproject.toml", "mkdocs.yml", "CITATION.cff", "README.md", "docs/quickstart.md")


def write_address(root: Path, address: str) -> list[Path]:
    """Puts a new address in the place of the present one, and of `<this repository>`.

    Args:
        root: The repository.
        address: Of its page, without a slash at the end.

    Returns:
        The files that changed.
    """
    present = re.search(r'^Repository = "(.+)"$', (root / "pyproject.toml").read_text("utf-8"), re.MULTILINE)
    if present is None:
        raise SystemExit("pyproject.toml names no Repository below [project.urls].")
    changed = []
    for path in (root / name for name in FILES):
        text = path.read_text("utf-8")
        new = text.replace(present[1], address).replace("<this repository>", address)
        if new != text:
            path.write_text(new, "utf-8")
            changed.append(path)
    return changed


if __name__ == "__main__":
    if len(sys.argv) != 2 or not re.fullmatch(r"https://[^\s/]+/\S+[^\s/]", sys.argv[1]):
        sys.exit(__doc__)
    for path in write_address(ROOT, sys.argv[1]):
        print(f"wrote {path}")
