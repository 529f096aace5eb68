"""Writes the table of docs/howto/commands.md: adapters of the package in worlds that they were not trained in.

    python docs/make_cross_worlds.py

Takes half a minute on one quiet core, the first time longer, while the faces are painted.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from pages import fill

from ciao_peft.cli import main as ciao

PAGE = Path(__file__).parent / "howto" / "commands.md"
COMMAND = "ciao cross ciao/everyday-six ciao/painted-eight ciao/painted-seven --worlds eight seven --num_test 300"


def main() -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if ciao(COMMAND.split()[1:]):
            raise SystemExit(f"It failed: {COMMAND}")
    content = f"\n```bash\n{COMMAND}\n```\n\n{printed.getvalue().strip()}\n"
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), "cross", content), encoding="utf-8")


if __name__ == "__main__":
    main()
