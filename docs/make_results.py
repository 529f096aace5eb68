"""Writes docs/results.md from what the benchmarks measured.

python docs/make_results.py
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))
import real_faces  # noqa: E402

RESULTS = HERE.parent / "benchmarks" / "results" / "real_faces.jsonl"
ENCODER = HERE.parent / "ciao_peft" / "encoders" / "weights" / "small_face.json"
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


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
    text = (
        f"{sizes[0]:,} training and {sizes[1]:,} test faces, six very unequal classes (`fear` and `contempt`, with fewer "
        f"than 20 training faces, are left out), {first[0]['epochs']:g} epochs, settings as the library has them, no "
        "choice made on the test faces. Mean ± standard deviation over seeds, in percent. Seconds are the median of one "
        "training on two shared CPU cores, from stored features except for `full`.\n\n"
    )
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
    return text + table(["difference", "of", "mean", "interval", "p"], lines)


def settings() -> str:
    runs = records("settings")
    head = ["setting", "accuracy", "balanced accuracy", "runs"]
    parts = []
    for question, answers in real_faces.SETTINGS.items():
        rows = []
        for answer, changes in answers.items():
            key = real_faces.key_of(*changes)
            if key in runs:
                lines, mark = runs[key], " (default)" if key == "{}" else ""
                rows.append([answer + mark, *(spread(percent(lines, m)) for m in METRICS), str(len(lines))])
        parts.append(f"**{question}**\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def encoder() -> str:
    card = json.loads(ENCODER.read_text())
    rows = [[f"`{key}`", f"`{json.dumps(value)}`"] for key, value in card.items() if key not in ("preprocessing",)]
    return table(["", ""], rows)


def main() -> None:
    page = f"""# Results

Every number on this page was written by `python docs/make_results.py` from `benchmarks/results/real_faces.jsonl`.

## The six networks on real faces

    python benchmarks/real_faces.py networks --data_dir ../shared/faces

{networks()}

## How the defaults were chosen

    python benchmarks/real_faces.py settings --data_dir ../shared/faces

Decision layer with CIAO, everything at its default but the one setting named. Trained on seven tenths of the training
people, scored on the other three tenths, another division for each seed; the test faces were not looked at.

{settings()}

## The encoder underneath

`small-face`, trained to tell people apart by `examples/pretrain_encoder.py`:

{encoder()}
"""
    notes = HERE / "results-notes.md"
    if notes.exists():
        page += "\n" + notes.read_text()
    (HERE / "results.md").write_text(page)
    print(f"wrote {HERE / 'results.md'}")


if __name__ == "__main__":
    main()
