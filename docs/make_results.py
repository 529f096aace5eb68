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
PAINTED = HERE.parent / "benchmarks" / "results" / "painted_worlds.txt"
README = HERE.parent / "README.md"
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


def painted() -> str:
    return f"""    python examples/quickstart.py --table benchmarks/results/painted_worlds.txt

One encoder, the same painted faces, four worlds that label them differently; scores on people never seen in training.

```text
{PAINTED.read_text().rstrip()}
```"""


def short() -> str:
    """The README's table: what adapts, what it trains, what it reaches."""
    rows = [
        [name, spread(percent(lines, "accuracy")), spread(percent(lines, "balanced_accuracy")), f"{n:,}"]
        for name, lines in records("networks").items()
        for n in [lines[0]["parameters"]]
    ]
    return table(["small-face on real faces, six classes", "accuracy", "balanced accuracy", "trained"], rows)


def fill(page: str, name: str, content: str) -> str:
    """Puts content between the two marks of that name."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = page.split(start)
    return before + start + "\n" + content + "\n" + end + rest.split(end)[1]


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

## Four painted worlds

{painted()}

## How the defaults were chosen

    python benchmarks/real_faces.py settings --data_dir ../shared/faces

Decision layer with CIAO, everything at its default but the one setting named. Trained on seven tenths of the training
people, scored on the other three tenths, another division for each seed; the test faces were not looked at.

{settings()}

## The encoder underneath

`small-face`, trained to tell people apart by `examples/pretrain_encoder.py`:

{encoder()}
"""
    readme = README.read_text()
    for name, content in (("networks", short()), ("worlds", f"```text\n{PAINTED.read_text().rstrip()}\n```")):
        readme = fill(readme, name, content)
    README.write_text(readme)
    (HERE / "results.md").write_text(page)
    print(f"wrote {HERE / 'results.md'}")


if __name__ == "__main__":
    main()
