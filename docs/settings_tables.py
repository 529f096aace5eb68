"""Tables for docs/make_results.py: what the defaults were chosen by, and the networks of an earlier run.

Their records, benchmarks/results/real_faces.jsonl and start_of_a.jsonl, are older than `ciao reproduce`;
benchmarks/studies/settings.yaml is the same comparison as a study.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from ciao_peft.markdown import markdown_table as table
from ciao_peft.study.presets.methods import WITHOUT_CIAO

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
METRICS = ("accuracy", "balanced_accuracy")
PAIRS = [
    ("decision layer + CIAO", "decision layer"),
    ("decision layer + CIAO", "last convolution"),
    ("last convolution + CIAO", "last convolution"),
    ("full + CIAO", "full"),
]
# Question -> the setting that was changed, and what it is by default.
QUESTIONS = {
    "learning rate of the mask": ("mask_learning_rate", 0.01),
    "learning rate of the last convolution, a baseline": ("encoder_learning_rate", None),
    "contrastive weight": ("contrastive_weight", 1.0),
    "start of a": ("decay_init", 3.0),  # what a start at about nine spreads of u, the default, gives with this encoder
    "what the head sees": ("pooling", "flatten"),
    "where z is taken": ("embedding_source", "features"),
    "temperature": ("temperature", 0.1),
    "denominator of Eq. 2": ("contrastive_denominator", "all"),
    "balance of the batches": ("class_balance", 0.5),
}


def records(study: str) -> dict[str, list[dict]]:
    """Lines of one study on the encoder that is bundled now, by name, in order of seeds."""
    by_name: dict[str, list[dict]] = defaultdict(list)
    lines = [json.loads(line) for line in (RESULTS / "real_faces.jsonl").read_text().splitlines()]
    newest = lines[-1]["encoder"]
    for line in lines:
        if line["study"] == study and line["encoder"] == newest:
            by_name[line["name"]].append(line)
    return {name: sorted(rows, key=lambda row: row["seed"]) for name, rows in by_name.items()}


def percent(rows: list[dict], metric: str) -> np.ndarray:
    return np.array([100 * row["scores"][metric] for row in rows])


def spread(values: np.ndarray) -> str:
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" if len(values) > 1 else f"{values.mean():.1f}"


# -- the networks of the earlier run -----------------------------------------------------------------------------------


def networks() -> str:
    runs = records("networks")
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
    text = table(["network", "accuracy", "balanced accuracy", "macro F1", "trained", "s", "seeds"], rows)
    text += "\n\nPaired by seed, in points (95 % interval and p of a paired t-test, uncorrected):\n\n"
    compared = [_difference(runs, one, other, metric) for one, other in PAIRS for metric in METRICS]
    return text + table(["difference", "score", "mean", "interval", "p"], compared)


def _difference(runs: dict[str, list[dict]], one: str, other: str, metric: str) -> list[str]:
    shared = {row["seed"] for row in runs[one]} & {row["seed"] for row in runs[other]}
    a, b = (percent([row for row in runs[name] if row["seed"] in shared], metric) for name in (one, other))
    mean, half = (a - b).mean(), stats.t.ppf(0.975, len(a) - 1) * stats.sem(a - b)
    p = stats.ttest_rel(a, b).pvalue
    interval = f"{mean - half:+.1f} to {mean + half:+.1f}"
    return [f"{one} − {other}", metric.replace("_", " "), f"{mean:+.1f}", interval, f"{p:.3f}"]


def networks_sizes() -> tuple[list[int], float]:
    """Training and test faces, and epochs, of the earlier run."""
    first = next(iter(records("networks").values()))[0]
    return first["samples"], first["epochs"]


# -- one setting at a time ---------------------------------------------------------------------------------------------


def settings() -> str:
    runs = {name: (json.loads(name), rows) for name, rows in records("settings").items()}
    parts = []
    for question, (setting, default) in QUESTIONS.items():
        around = {"tuning", *WITHOUT_CIAO} if setting == "encoder_learning_rate" else set()
        answers = {changes[setting]: rows for changes, rows in runs.values() if set(changes) == {setting} | around} | (
            {} if default is None else {default: runs["{}"][1]}
        )
        # Another seed is another division of the people: only answers to the same divisions compare.
        shared = set.intersection(*({row["seed"] for row in rows} for rows in answers.values()))
        lines = []
        for answer in sorted(answers, key=lambda one: one if isinstance(one, float) else one != default):
            rows = [row for row in answers[answer] if row["seed"] in shared]
            name = answer if isinstance(answer, str) else f"{answer:g}"
            mark = (" (left out)" if setting == "decay_init" else " (default)") * (answer == default)
            lines.append([name + mark, *(spread(percent(rows, metric)) for metric in METRICS), str(len(rows))])
        if setting == "decay_init":
            question += ", by default about nine spreads of u: 3 with this encoder"
        parts.append(f"**{question}**\n\n{table(['setting', 'accuracy', 'balanced accuracy', 'runs'], lines)}")
    return "\n\n".join(parts)


# -- where `a` starts --------------------------------------------------------------------------------------------------


def starts_of_a() -> str:
    """Accuracy on held-out people by the start of a and the mask's rate, one table for each encoder."""
    lines = [json.loads(line) for line in (RESULTS / "start_of_a.jsonl").read_text().splitlines()]
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
    lines = [json.loads(line) for line in (RESULTS / "start_of_a.jsonl").read_text().splitlines()]
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
