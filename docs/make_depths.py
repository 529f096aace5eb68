"""Writes the table of docs/howto/depths.md.

python benchmarks/depths.py    # first
python docs/make_depths.py
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from pages import fill

from ciao_peft.markdown import markdown_table

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results" / "depths.jsonl"
PAGE = HERE / "howto" / "depths.md"
NAMES = {"compact head": "none", "three units": "`depths=3`", "six units": "`depths=6`"}


def lines() -> list[dict[str, Any]]:
    """What was measured, the newest of each."""
    found = [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()]
    return [*{(line["method"], line["seed"]): line for line in found}.values()]


def measured(found: list[dict[str, Any]]) -> str:
    """A row for each method; mean ± standard deviation over seeds, and each seed's difference to no depths."""
    rows = []
    bare = {line["seed"]: line["scores"] for line in found if line["method"] == "compact head"}
    for method, name in NAMES.items():
        own = [line for line in found if line["method"] == method]
        row = [name, f"{own[0]['parameters']:,}"]
        for score in ("accuracy", "balanced_accuracy"):
            values = [100 * line["scores"][score] for line in own]
            row.append(f"{statistics.mean(values):.1f} ± {statistics.stdev(values) if len(values) > 1 else 0:.1f}")
            each = [100 * (line["scores"][score] - bare[line["seed"]][score]) for line in own]
            row.append("" if method == "compact head" else ", ".join(f"{value:+.1f}" for value in each))
        rows.append(row)
    return markdown_table(["depths", "numbers", "accuracy", "by seed", "balanced accuracy", "by seed"], rows)


def main() -> None:
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), "measured", measured(lines())), encoding="utf-8")
    print(f"Written: {PAGE}")


if __name__ == "__main__":
    main()
