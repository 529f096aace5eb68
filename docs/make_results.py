"""Writes docs/results.md from what the benchmarks measured.

python docs/make_results.py
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections import defaultdict
from pathlib import Path

import numpy as np
from scipy import stats

from ciao_peft.experiments import Plan
from ciao_peft.experiments.contents import Section
from ciao_peft.experiments.markdown import as_markdown
from ciao_peft.experiments.report import load_study, section_markdown
from ciao_peft.experiments.study import LEVEL, NETWORKS, Study
from ciao_peft.experiments.tables import headlines, parameters, table_one
from ciao_peft.experiments.wording import missing
from ciao_peft.experiments.wording import spread as spread_of

HERE = Path(__file__).parent
STUDIES = HERE.parent / "benchmarks" / "studies"
sys.path.insert(0, str(HERE.parent / "benchmarks"))
import real_faces  # noqa: E402

RESULTS = HERE.parent / "benchmarks" / "results" / "real_faces.jsonl"
STARTS = RESULTS.with_name("start_of_a.jsonl")
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


def studies() -> dict[str, Study]:
    """Every plan that has results, by its name."""
    found = {}
    for plan in sorted(STUDIES.glob("*.yaml"), reverse=True):  # the bundled encoder first
        results = RESULTS.with_name(f"study_{plan.stem.replace('-', '_')}.jsonl")
        if results.is_file():
            found[plan.stem] = load_study(results, plan=Plan.from_file(plan))
    return found


def on_real_faces() -> str:
    """What all studies say together, then each pair of a task and an encoder, its pictures beside the page."""
    found = studies()
    together = Study([record for study in found.values() for record in study.records])
    tables = tuple(table for table in (headlines(together), table_one(together), parameters(together)) if table)
    parts = [as_markdown(Section("Together", tables), level=3)]
    for name, study in found.items():
        for pair in study.pairs:
            parts.append(section_markdown(study, *pair, level=3, figures_dir=HERE / "figures", page_dir=HERE))
        lines = missing(study) or ["Nothing that was planned."]
        parts.append(f"**Missing in the study `{name}`**\n\n" + "\n".join(f"- {line}" for line in lines) + "\n")
    return "\n".join(parts).rstrip()


def tried() -> str:
    """The ablations that came out above CIAO as it is; what searches found; and where `a` starts."""
    rows = [
        (encoder, one)
        for study in studies().values()
        for task, encoder in study.pairs
        for one in study.comparisons(task, encoder, ("ablation",))
    ]
    better = [(encoder, one) for encoder, one in rows if one.comparison.difference.mean < 0]
    clear = [(encoder, one) for encoder, one in better if one.corrected is not None and one.corrected < LEVEL]

    def named(found: list) -> str:
        return ", ".join(f"“{one.other}” ({encoder})" for encoder, one in found) or "none"

    paragraphs = [
        f"""**Another mask.** The ablations above, each with its own search of the mask's learning rate, are {len(rows)}
        comparisons. Ahead of CIAO as it is: {named(better)}. Ahead beyond chance, after Holm's correction:
        {named(clear)}. Where u is silent, M = u / (a + I) is silent too, whatever I learns; (u + I) / a and
        (u - I) / a can speak there, as the unfrozen convolution can.""",
        """**Other settings.** On held-out training people: the mask's learning rate, the start of a, the weight, place,
        temperature and denominator of the contrastive loss, what the head sees and the balance of the batches, one by
        one (“How the defaults were chosen” below); and the head's rate, the mask's rate, dropout, temperature, weight
        and batch size together, by a search for each network. The study `searched` trains ten seeds with what they
        found.""",
        """**The start of a.** An encoder whose u is small was held back by it; “Where a starts” below has the
        measurements. Since then a starts by the spread of u.""",
    ]
    text = [textwrap.fill(" ".join(one.split()), 120, break_on_hyphens=False) for one in paragraphs]
    return "\n\n".join([*text[:2], found_by_searches(), *text[2:]])


def found_by_searches() -> str:
    """What each search chose, and its best score on held-out people."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.parent.glob("search_*.json"))]
    names = (
        "learning_rate",
        "mask_learning_rate",
        "encoder_learning_rate",
        "dropout",
        "temperature",
        "contrastive_weight",
    )
    names += ("per_device_train_batch_size",)
    rows = []
    for method in found:
        values = {**method["config"], **method["arguments"]}
        hidden = {"temperature", "contrastive_weight"} if values.get("contrastive_weight") == 0 else set()
        chosen = ["" if name in hidden else f"{values.get(name, '')}" for name in names]
        search = method["search"]
        rows.append([search["method"]["name"], *chosen, f"{100 * search['score']:.1f}", str(search["trials"])])
    heads = ["rate of head", "of mask", "of convolution", "dropout", "temperature", "weight", "batch"]
    return table(["searched for", *heads, "accuracy, held-out people", "trials"], rows)


def faces() -> str:
    """How many there are, as the trainings counted them."""
    record = next(one for study in studies().values() for one in study.records if one.split == "test")
    train, test = record.samples["train"], record.samples["test"]
    return f"""{train:,} training faces and {test:,} test faces of people of whom none is in training, in
{len(record.labels)} very unequal classes (`fear` and `contempt`, with fewer than 20 training faces, are left out)."""


def budgets() -> str:
    told = [
        f"`{name}` trains for {study.plan.epochs:g} epochs and "
        + (f"tries {study.plan.search_rates} rates" if study.plan.search_rates else "searched for all settings before")
        for name, study in studies().items()
    ]
    return f"The study {'; '.join(told)}."


def commands() -> str:
    return "\n".join(
        f"    ciao reproduce --plan benchmarks/studies/{name}.yaml --output_dir runs/study-{name} --num_processes 2"
        for name in studies()
    )


def painted() -> str:
    return f"""    python examples/quickstart.py --table benchmarks/results/painted_worlds.txt

One encoder, the same painted faces, four worlds that label them differently; scores on people never seen in training.

```text
{PAINTED.read_text().rstrip()}
```"""


def short() -> str:
    """The README's table: what adapts, what it trains, what it reaches."""
    rows = []
    for study in studies().values():
        for task, encoder in study.pairs:
            for name, result in study.results(task, encoder).items():
                if task == "faces" and name in NETWORKS:
                    scores = [spread_of(result.summary(metric), metric) for metric in METRICS]
                    rows.append([encoder, name, *scores, f"{result.trained:,}", str(len(result.seeds))])
    return table(["real faces, six classes", "what trains", "accuracy", "balanced accuracy", "trained", "seeds"], rows)


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


def encoder() -> str:
    card = json.loads(ENCODER.read_text())
    rows = [[f"`{key}`", f"`{json.dumps(value)}`"] for key, value in card.items() if key not in ("preprocessing",)]
    return table(["", ""], rows)


def main() -> None:
    page = f"""# Results

Every number and picture on this page was written by `python docs/make_results.py` from `benchmarks/results/`.

## Real faces

{commands()}

`../shared/faces`: {faces()}
Everything trains with bfloat16 autocast from the same stored features (or pixels, where a method changes what comes
before the cut), for as many epochs, at the learning rate that did best in a search of its own on held-out training
people; all methods of a study try as many. {budgets()} The networks without CIAO
and the rivals train by their task loss alone, like the "-" columns of the paper's Table I. How each method is set is in
`ciao_peft/experiments/methods.py` and `rivals/`; [experiments.md](experiments.md) says how to run a study of your own.
The weights of the three encoders are described in [encoders.md](encoders.md).

{on_real_faces()}

## What was tried to bring CIAO closer

{tried()}

## An earlier run: whole encoders, ten epochs, float32

    python benchmarks/real_faces.py networks --data_dir ../shared/faces

{networks()}

## Four painted worlds

{painted()}

## How the defaults were chosen

    python benchmarks/real_faces.py settings --data_dir ../shared/faces

Decision layer with CIAO, everything at its default but the one setting named. Trained on seven tenths of the training
people, scored on the other three tenths, another division for each seed; the test faces were not looked at.

{settings()}

### Where a starts

    python benchmarks/start_of_a.py --num_splits 3
    python benchmarks/start_of_a.py --encoder prior_knowledge=runs/pk/encoder --epochs 2 --starts 1 3 9 27 81

What is a large a depends on u. So the start is measured in spreads of u, the standard deviation over samples, channels
and positions, on held-out training people; where people were divided several times the accuracies stand side by side,
in percent. `CIAOTrainer` starts a at about nine spreads.

{starts_of_a()}

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
