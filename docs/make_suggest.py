"""Writes the tables of docs/howto/suggest.md, and its figure docs/suggest.png.

python benchmarks/suggest.py    # first
python docs/make_suggest.py
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pages import fill

from ciao_peft.drawing import as_png, blank_figure
from ciao_peft.markdown import markdown_table

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results" / "suggest.jsonl"
PAGE = HERE / "howto" / "suggest.md"
FIGURE = HERE / "suggest.png"
HELD_OUT = "held-out people"
SCORES = ("accuracy", "balanced_accuracy")
FREQUENT = ("neutral", "happiness")
_LOOKS = {  # the colours of Okabe and Ito, and marks that differ as well
    "random": ("#000000", "o"),
    "margin": ("#D55E00", "s"),
    "entropy": ("#E69F00", "^"),
    "k-center": ("#56B4E9", "v"),
    "typiclust": ("#009E73", "D"),
    "badge": ("#CC79A7", "P"),
    "cluster-margin": ("#0072B2", "X"),
}


def read(path: Path = RESULTS) -> list[dict[str, Any]]:
    """What was measured."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def own(
    lines: Sequence[dict[str, Any]], split: str, strategy: str, labels: int, start: str = "random"
) -> dict[int, Any]:
    """By seed, the lines of a strategy with so many labels."""
    found = [line for line in lines if (line["split"], line["strategy"], line["start"]) == (split, strategy, start)]
    return {line["seed"]: line for line in found if line["labels"] == labels}


def against_random(
    lines: Sequence[dict[str, Any]], split: str, strategy: str, labels: int, start: str, score: str
) -> str:
    """The mean difference to random choice of the same seeds, in points, with its standard error."""
    mine, others = own(lines, split, strategy, labels, start), own(lines, split, "random", labels)
    gaps = [100 * (mine[seed]["scores"][score] - others[seed]["scores"][score]) for seed in sorted({*mine} & {*others})]
    if not gaps:
        return ""
    error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return f"{statistics.mean(gaps):+.1f} ± {error:.1f}"


def level(lines: Sequence[dict[str, Any]], split: str, strategy: str, labels: int, score: str) -> str:
    """The mean score, in percent."""
    return (
        f"{statistics.mean(100 * line['scores'][score] for line in own(lines, split, strategy, labels).values()):.1f}"
    )


def rare(lines: Sequence[dict[str, Any]], split: str, strategy: str, labels: int, start: str = "random") -> str:
    """How many of the asked faces are of the rare classes, on average."""
    asked = [line["asked"] for line in own(lines, split, strategy, labels, start).values()]
    return f"{statistics.mean(sum(n for label, n in each.items() if label not in FREQUENT) for each in asked):.0f}"


def strategies(lines: Sequence[dict[str, Any]], split: str) -> list[str]:
    """Those of one split that begin with labels drawn at random, random choice first."""
    return [*dict.fromkeys(line["strategy"] for line in lines if (line["split"], line["start"]) == (split, "random"))]


def table(lines: Sequence[dict[str, Any]], split: str) -> str:
    """Random choice in percent, the others as differences to it."""
    numbers = sorted({line["labels"] for line in lines if (line["split"], line["start"]) == (split, "random")})[1:]
    rows = []
    for strategy in strategies(lines, split):
        row = [strategy]
        for score in SCORES:
            for labels in numbers:
                plain = strategy == "random"
                row.append(
                    level(lines, split, strategy, labels, score)
                    if plain
                    else against_random(lines, split, strategy, labels, "random", score)
                )
        rows.append([*row, rare(lines, split, strategy, numbers[-1])])
    head = [f"{name}, {labels} labels" for name in ("accuracy", "balanced") for labels in numbers]
    return markdown_table(["strategy", *head, f"rare of {numbers[-1]}"], rows)


def cold(lines: Sequence[dict[str, Any]]) -> str:
    """The first labels, chosen without an adapter."""
    labels = min(line["labels"] for line in lines)
    rows = [["random", *(level(lines, HELD_OUT, "random", labels, score) for score in SCORES)]]
    rows[0].append(rare(lines, HELD_OUT, "random", labels))
    for strategy in dict.fromkeys(line["strategy"] for line in lines if line["start"] == "cold"):
        gaps = [against_random(lines, HELD_OUT, strategy, labels, "cold", score) for score in SCORES]
        rows.append([strategy, *gaps, rare(lines, HELD_OUT, strategy, labels, "cold")])
    return markdown_table(["strategy", "accuracy", "balanced accuracy", f"rare of {labels}"], rows)


def figure(lines: Sequence[dict[str, Any]]) -> bytes:
    """Scores over labels, a line for each strategy."""
    drawn = blank_figure(7.5, 3.2)
    panels = drawn.subplots(1, 2)
    numbers = sorted({line["labels"] for line in lines if (line["split"], line["start"]) == (HELD_OUT, "random")})
    for panel, score in zip(panels, SCORES, strict=True):
        for strategy in strategies(lines, HELD_OUT):
            heights = []
            for labels in numbers:
                found = own(lines, HELD_OUT, "random" if labels == numbers[0] else strategy, labels).values()
                heights.append(statistics.mean(100 * line["scores"][score] for line in found))
            colour, mark = _LOOKS.get(strategy, ("#8a8a8a", "."))
            width = 2.2 if strategy == "random" else 1.2
            panel.plot(numbers, heights, color=colour, marker=mark, markersize=4, linewidth=width, label=strategy)
        panel.set_xscale("log", base=2)
        panel.set_xticks(numbers, [str(labels) for labels in numbers])
        panel.set_xlabel("labelled faces")
        panel.set_title(f"{score.replace('_', ' ')}, %", fontsize=9)
        panel.tick_params(labelsize=8)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[0].legend(fontsize=7, frameon=False)
    return as_png(drawn, 150)


def main() -> None:
    lines = read()
    page = PAGE.read_text(encoding="utf-8")
    page = fill(page, "measured", table(lines, HELD_OUT))
    page = fill(page, "cold", cold(lines))
    page = fill(page, "test", table(lines, "test"))
    PAGE.write_text(page, encoding="utf-8")
    FIGURE.write_bytes(figure(lines))
    print(f"Written: {PAGE}, {FIGURE}")


if __name__ == "__main__":
    main()
