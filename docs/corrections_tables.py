"""The table of single corrections for docs/make_results.py, from benchmarks/results/online_corrections.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pages import wrapped

from ciao_peft.markdown import markdown_table

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "online_corrections.json"
WHAT = {
    "by hand": "ten steps of Adam on the twelve, and nothing else",
    "at once": "one update of `OnlineTrainer` with all twelve",
    "one by one": "twelve updates, learned together (`together=16`)",
    "one by one, guarded": "the same, with a guard that may lose 2 points",
    "one by one, apart": "each from where the last ended (`together=0`)",
}


def corrections() -> str:
    """The section of the page; empty where nothing was measured."""
    if not RESULTS.is_file():
        return ""
    found: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text())["summary"]
    rows = [
        [
            f"{method}: {what}",
            f"{found[method]['right'][0]:.1f} ± {found[method]['right'][1]:.1f}",
            f"{found[method]['lost'][0]:.1f} ± {found[method]['lost'][1]:.1f}".replace("-", "−"),
            f"{found[method]['goal met']} of {found[method]['runs']}",
        ]
        for method, what in WHAT.items()
        if method in found
    ]
    verdicts = []
    for method in ("at once", "one by one"):
        if method in found:
            right, lost = found[method]["right"][0], found[method]["lost"][0]
            reached = "met" if right >= 10 and lost <= 2 else "not met"
            verdicts.append(f"{method}: **{reached}** on average")
    verdict = "; ".join(verdicts)
    text = wrapped(
        "`python benchmarks/online_corrections.py`: twelve faces of one class that the adapter `ciao/everyday-six` "
        "reads wrongly are corrected; faces of other people are measured before and after. The goal was at least 10 "
        f"of the 12 right and at most 2 points lost on the others ({verdict}). How many corrections are learned "
        "together was chosen on people of the training split who were held out."
    )
    header = ["how", "right of 12", "points lost on the others", "runs in which the goal was met"]
    return (
        f"## Twelve corrections\n\n{text}\n\n{markdown_table(header, rows)}\n\nMean ± standard deviation over runs.\n"
    )
