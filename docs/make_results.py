"""Writes docs/results.md from what the benchmarks measured.

python docs/make_results.py
"""

from __future__ import annotations

import json
import textwrap
from functools import cache
from pathlib import Path

from real_faces_tables import METRICS, networks, settings, starts_of_a, three_or_nine
from speed_tables import table

from ciao_peft.study import read_plan
from ciao_peft.study.analysis.study import LEVEL, NETWORKS, Study
from ciao_peft.study.report.contents import Section
from ciao_peft.study.report.markdown import as_markdown
from ciao_peft.study.report.tables import headlines, parameters, table_one
from ciao_peft.study.report.text import missing
from ciao_peft.study.report.text import spread as spread_of
from ciao_peft.study.report.write import load_study, section_markdown

HERE = Path(__file__).parent
STUDIES = HERE.parent / "benchmarks" / "studies"
RESULTS = HERE.parent / "benchmarks" / "results"
PAINTED = RESULTS / "painted_worlds.txt"
README = HERE.parent / "README.md"
ENCODER = HERE.parent / "ciao_peft" / "encoders" / "weights" / "small_face.json"


@cache
def studies() -> dict[str, Study]:
    """Every plan that has results, by its name."""
    found = {}
    for plan in sorted(STUDIES.glob("*.yaml"), reverse=True):  # the bundled encoder first
        results = RESULTS / f"study_{plan.stem.replace('-', '_')}.jsonl"
        if results.is_file():
            found[plan.stem] = load_study(results, plan=read_plan(plan))
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
        f"""**Who may change what.** Rivals that work “everywhere” change the trunk: nothing of theirs can be stored or
        shared between worlds, and a face goes through the whole network once for each. Of those that train from the
        same stored features, with no more numbers, furthest ahead are {on_the_same_features()}; in brackets CIAO minus
        it, in points of accuracy.""",
        f"""**Another mask.** The ablations above, each with its own search of the mask's learning rate, are {len(rows)}
        comparisons. Ahead of CIAO as it is: {named(better)}. Ahead beyond chance, after Holm's correction:
        {named(clear)}. Where u is silent, M = u / (a + I) is silent too, whatever I learns; (u + I) / a and
        (u - I) / a can speak there, as the unfrozen convolution can.""",
        """**Other settings.** On held-out training people: the mask's learning rate, the start of a, the weight, place,
        temperature and denominator of the contrastive loss, what the head sees and the balance of the batches, one by
        one (“How the defaults were chosen” below); and the head's rate, the mask's rate, dropout, temperature, weight
        and batch size together, by a search for each network. The study `searched` trains ten seeds with what they
        found, “faces, searched” above.""",
        """**The start of a.** An encoder whose u is small was held back by it; “Where a starts” below has the
        measurements. Since then a starts by the spread of u.""",
    ]
    text = [wrapped(one) for one in paragraphs]
    return "\n\n".join([*text[:3], found_by_searches(), *text[3:]])


def on_the_same_features() -> str:
    """The best rival of those that train from the same stored features as CIAO, for each encoder."""
    found = []
    for study in studies().values():
        needs = {method.name: method.needs for method in study.plan.methods}
        for task, encoder in study.pairs:
            first = next((one for one in study.baselines(task, encoder) if needs[one.other] == "features"), None)
            if first is not None and task == "faces":
                points = f"{100 * first.comparison.difference.mean:+.1f}".replace("-", "−")
                found.append(f"“{first.other}” with {encoder} ({points})")
    return ", ".join(found)


def found_by_searches() -> str:
    """What each search chose, and its best score on held-out people."""
    found = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("search_*.json"))]
    names = ("learning_rate", "mask_learning_rate", "encoder_learning_rate", "dropout", "temperature")
    names = (*names, "contrastive_weight", "per_device_train_batch_size")
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


def encoder() -> str:
    card = json.loads(ENCODER.read_text())
    rows = [[f"`{key}`", f"`{json.dumps(value)}`"] for key, value in card.items() if key not in ("preprocessing",)]
    return table(["", ""], rows)


def about_real_faces() -> str:
    return wrapped(
        f"""`../shared/faces`: {faces()} Everything trains with bfloat16 autocast from the same stored features (or
        pixels, where a method changes what comes before the cut), for as many epochs, at the learning rate that did
        best in a search of its own on held-out training people; all methods of a study try as many. {budgets()} The
        networks without CIAO and the rivals train by their task loss alone, like the "-" columns of the paper's Table
        I. How each method is set is in `ciao_peft/experiments/methods.py` and `rivals/`;
        [experiments.md](experiments.md) says how to run a study of your own. The weights of the three encoders are
        described in [encoders.md](encoders.md)."""
    )


def about_starts() -> str:
    return wrapped(
        f"""What is a large a depends on u. So the start is measured in spreads of u, the standard deviation over
        samples, channels and positions, on held-out training people; where people were divided several times the
        accuracies stand side by side, in percent. `CIAOTrainer` starts a at about nine spreads. {three_or_nine()}"""
    )


def wrapped(paragraph: str) -> str:
    return textwrap.fill(" ".join(paragraph.split()), 120, break_on_hyphens=False)


def main() -> None:
    page = f"""# Results

Every number and picture on this page was written by `python docs/make_results.py` from `benchmarks/results/`.

## Real faces

{commands()}

{about_real_faces()}

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

    python benchmarks/start_of_a.py
    python benchmarks/start_of_a.py --num_splits 3 --starts 3 9 --rates 0.003 0.01
    python benchmarks/start_of_a.py --encoder prior_knowledge=runs/pk/encoder --epochs 2 --starts 1 3 9 27 81 \\
        --rates 0.003 0.01

{about_starts()}

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
