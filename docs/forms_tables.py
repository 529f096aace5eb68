"""Tables for docs/make_results.py: which form of the mask is the default, as benchmarks/forms.py measures it."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ciao_peft.markdown import markdown_table as table

ROWS = (
    *("head alone", "last convolution", "E alone"),
    *("divisive", "gain", "rescaled", "rescaled, λ 0.1", "rescaled, E", "rescaled, E, λ 0.1"),
)
DEFAULT = "rescaled, E, λ 0.1"
FEW = "faces, 5 % of the people"
COLUMNS = ("faces", FEW, "painted eight", "painted signals", "painted affect")
CONVOLUTION = "last convolution"
FORMS = Path(__file__).parents[1] / "benchmarks" / "results" / "forms.jsonl"


def measured_forms() -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """The lines of benchmarks/results/forms.jsonl by encoder, world and form."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in FORMS.read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        found[one["encoder"].removesuffix("-3-aligned"), one["world"], one["form"]].append(one)
    return found


def _mean_of_form(lines: Sequence[Mapping[str, Any]]) -> float:
    return statistics.mean(100 * line["scores"][line["metric"]] for line in lines)


def forms_tables() -> str:
    """A table for each encoder: forms, and what each reaches in each world."""
    found = measured_forms()
    parts = []
    for encoder in sorted({encoder for encoder, _, _ in found}, reverse=True):
        rows = []
        for form in ROWS:
            cells = [found.get((encoder, world, form), []) for world in COLUMNS]
            rows.append([form, *(f"{_mean_of_form(cell):.1f} ({len(cell)})" if cell else "–" for cell in cells)])
        parts.append(f"**{encoder}**\n\n{table(['form', *COLUMNS], rows)}")
    note = "Times 100: accuracy, macro F1 (signals) and concordance (affect), with the number of seeds."
    return "\n\n".join([*parts, note])


def what_forms_say() -> str:
    """How far the default is ahead of others, counted; apart where few people have labels."""
    found = measured_forms()
    places = dict.fromkeys((encoder, world) for encoder, world, _ in found)

    def against(other: str, few: bool) -> str:
        pairs = [[found.get((*place, form)) for form in (DEFAULT, other)] for place in places if few == (FEW in place)]
        gaps = [_mean_of_form(ours) - _mean_of_form(theirs) for ours, theirs in pairs if ours and theirs]
        ahead = sum(round(gap, 1) > 0 for gap in gaps)
        signed = [f"{gap:+.1f}".replace("-", "−") for gap in (statistics.mean(gaps), min(gaps), max(gaps))]
        return f"of “{other}” in {ahead} of {len(gaps)} ({signed[0]} in the mean, {signed[1]} to {signed[2]})"

    others = ("divisive", "rescaled", CONVOLUTION)
    said = ", ".join(against(other, few=False) for other in others)
    return (
        f"“{DEFAULT}” is the default. With labels of many people it is ahead {said}; with those of few, "
        f"{against('rescaled', few=True)}: the preset `small-data` is that form."
    )
