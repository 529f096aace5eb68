"""Tables for docs/make_results.py: the networks of an earlier run on real faces, and what defaults were chosen by."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from ciao_peft.markdown import markdown_table as table

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import real_faces  # noqa: E402

RESULTS = BENCHMARKS / "results" / "real_faces.jsonl"
STARTS = BENCHMARKS / "results" / "start_of_a.jsonl"
METRICS = ("accuracy", "balanced_accuracy")
PAIRS = [
    ("decision layer + CIAO", "decision layer"),
    ("decision layer + CIAO", "last convolution"),
    ("last convolution + CIAO", "last convolution"),
    ("full + CIAO", "full"),
]


def records(study: str) -> dict[str, list[dict]]:
    """Lines of one study on the encoder that is bundled now, by name, in order of seeds."""
    by_name: dict[str, list[dict]] = defaultdict(list)
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    newest = lines[-1]["encoder"]
    for line in lines:
        if line["study"] == study and line["encoder"] == newest:
            by_name[line["name"]].append(line)
    return {name: sorted(rows, key=lambda row: row["seed"]) for name, rows in by_name.items()}


def percent(rows: list[dict], metric: str) -> np.ndarray:
    return np.array([100 * row["scores"][metric] for row in rows])


def spread(values: np.ndarray) -> str:
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" if len(values) > 1 else f"{values.mean():.1f}"


def networks() -> str:
    runs = records("networks")
    first = next(iter(runs.values()))
    sizes = first[0]["samples"]
    rows = [
        [
            name,
            *(spread(percent(lines, metric)) for metric in (*METRICS, "macro_f1")),
            f"{lines[0]['parameters']:,}",
            f"{np.median([line['seconds'] for line in lines]):.0f}",
            str(len(lines)),
        ]
        for name, lines in runs.items()
    ]
    text = f"""{sizes[0]:,} training and {sizes[1]:,} test faces in six very unequal classes (`fear` and `contempt`,
with fewer than 20 training faces, are left out), {first[0]["epochs"]:g} epochs. The networks without CIAO train by
their task loss alone, like the "-" columns of the paper's Table I; all else is as the library has it, and nothing was
chosen by the test faces. Some people are in both splits (`load_faces` says how many), so every row is a little too
good. Mean ± standard deviation over seeds, in percent. Seconds are the median of one training with other work beside
it, from stored features except for `full`: they compare within the table only.

"""
    text += table(["network", "accuracy", "balanced accuracy", "macro F1", "trained", "s", "seeds"], rows)
    lines = []
    for one, other in PAIRS:
        if one not in runs or other not in runs:
            continue
        for metric in METRICS:
            shared = {r["seed"] for r in runs[one]} & {r["seed"] for r in runs[other]}
            a, b = (percent([r for r in runs[n] if r["seed"] in shared], metric) for n in (one, other))
            difference = a - b
            if len(difference) < 2:
                continue
            half = stats.t.ppf(0.975, len(difference) - 1) * stats.sem(difference)
            p = stats.ttest_rel(a, b).pvalue
            lines.append(
                [
                    f"{one} − {other}",
                    metric.replace("_", " "),
                    f"{difference.mean():+.1f}",
                    f"{difference.mean() - half:+.1f} to {difference.mean() + half:+.1f}",
                    f"{p:.3f}",
                ]
            )
    text += "\n\nPaired by seed, in points (95 % interval and p of a paired t-test, uncorrected):\n\n"
    return text + table(["difference", "of", "mean", "interval", "p"], lines) + "\n\n" + verdict(runs)


def verdict(runs: dict[str, list[dict]]) -> str:
    """The honest comparison in words, with its numbers."""
    mine = {metric: percent(runs["decision layer + CIAO"], metric).mean() for metric in METRICS}

    def against(name: str) -> str:
        gaps = [mine[metric] - percent(runs[name], metric).mean() for metric in METRICS]
        return f"{gaps[0]:+.1f} points of accuracy and {gaps[1]:+.1f} of balanced accuracy"

    return f"""**What it says.** With the encoder frozen, CIAO against the same head without it:
{against("decision layer")}. Against the last convolution unfrozen, with as many trained numbers and the same
stored features: {against("last convolution")}. The mask can only weaken what the frozen convolution found;
the unfrozen convolution may find something new. The settings below were tried to close that gap: the mask's learning
rate, the start of a, the weight, place, temperature and denominator of the contrastive loss, what the head sees, and
the balance of the batches; the unfrozen convolution has its own best learning rate, the whole encoder was given one.
Rare classes have so few test faces that balanced accuracy moves a point by chance."""


def settings() -> str:
    runs = records("settings")
    head = ["setting", "accuracy", "balanced accuracy", "runs"]
    parts = []
    for question, answers in real_faces.SETTINGS.items():
        keys = {answer: real_faces.key_of(*changes) for answer, changes in answers.items()}
        keys = {answer: key for answer, key in keys.items() if key in runs}
        # Another seed is another division of the people: only answers to the same divisions compare.
        shared = set.intersection(*({row["seed"] for row in runs[key]} for key in keys.values()))
        rows = []
        for answer, key in keys.items():
            lines, mark = [row for row in runs[key] if row["seed"] in shared], " (default)" if key == "{}" else ""
            rows.append([answer + mark, *(spread(percent(lines, m)) for m in METRICS), str(len(lines))])
        parts.append(f"**{question}**\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def starts_of_a() -> str:
    """Accuracy on held-out people by the start of a and the mask's rate, one table for each encoder."""
    lines = [json.loads(line) for line in STARTS.read_text().splitlines()]
    parts = []
    for name in dict.fromkeys(line["encoder"] for line in lines):
        own = [line for line in lines if line["encoder"] == name]
        seeds = sorted({line["seed"] for line in own})

        def cell(rows: list[dict], seeds: list[int] = seeds) -> str:
            found = {row["seed"]: f"{100 * row['accuracy']:.1f}" for row in rows}
            return " · ".join(found.get(seed, "–") for seed in seeds) if found else ""

        masked = [line for line in own if line["start"] is not None]
        rates = sorted({line["rate"] for line in masked})
        rows = []
        for start in sorted({line["start"] for line in masked}):
            same = [line for line in masked if line["start"] == start]
            a = sum(line["decay_init"] for line in same) / len(same)
            by_rate = [cell([line for line in same if line["rate"] == rate]) for rate in rates]
            rows.append([f"{start:g}", f"{a:.2g}", *by_rate])
        text = table(["a, in spreads of u", "a", *(f"rate {rate:g}" for rate in rates)], rows)
        others = defaultdict(list)
        for line in own:
            if line["start"] is None:
                others[line["method"], line["rate"]].append(line)
        best = {}
        for (method, rate), found in others.items():
            mean = np.mean([line["accuracy"] for line in found])
            best[method] = max(best.get(method, (0.0,)), (mean, rate, cell(found)))
        compared = "; ".join(f"{method} {found} (rate {rate:g})" for method, (_, rate, found) in best.items())
        spreads = [line["spread"] for line in own]
        parts.append(
            f"**{name}**, u with a spread of {np.mean(spreads):.2g}, {own[0]['epochs']:g} epochs\n\n{text}\n\n"
            f"To compare with, at the best of three rates: {compared}."
        )
    return "\n\n".join(parts)


def three_or_nine() -> str:
    """How often a start at three spreads of u was ahead of one at nine, all else equal."""
    lines = [json.loads(line) for line in STARTS.read_text().splitlines()]
    masked = [line for line in lines if line["start"] in (3.0, 9.0)]
    by_pair: dict[tuple, dict[float, float]] = defaultdict(dict)
    for line in masked:
        by_pair[line["encoder"], line["rate"], line["seed"]][line["start"]] = line["accuracy"]
    gains = [pair[3.0] - pair[9.0] for pair in by_pair.values() if len(pair) == 2]
    ahead = sum(gain > 0 for gain in gains)
    return (
        f"Three spreads are ahead of nine in {ahead} of {len(gains)} pairs here, by {100 * np.mean(gains):+.1f} points "
        "in the mean: too few to move the default by."
    )
