"""Writes docs/results.md and the pages in docs/results/ from what the benchmarks measured.

python docs/make_results.py
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from forms_tables import forms_tables, what_forms_say
from make_unlabelled import unlabelled_page
from method_study import FACES as METHOD
from method_study import STUDIES_OF_THE_METHOD, default_in_short, method_page
from pages import fill, narrow, wrap_page, wrapped
from settings_tables import METRICS, networks, networks_sizes, settings, starts_of_a, three_or_nine
from streams_tables import in_short, measured
from streams_tables import page as streams_page

from ciao_peft.markdown import markdown_table as table
from ciao_peft.study import read_plan
from ciao_peft.study.analysis import CIAO, LEVEL, NETWORKS, Study
from ciao_peft.study.report import (
    Section,
    about,
    as_markdown,
    headlines,
    load_study,
    missing,
    parameters,
    spread,
    table_one,
)
from ciao_peft.study.report.contents import picture_stems

HERE = Path(__file__).parent
PAGES = HERE / "results"
FIGURES = HERE / "figures"
STUDIES = HERE.parent / "benchmarks" / "studies"
RESULTS = HERE.parent / "benchmarks" / "results"
PAINTED = RESULTS / "painted_worlds.txt"
README = HERE.parent / "README.md"
ENCODER = HERE.parent / "ciao_peft" / "encoders" / "weights" / "small_face.json"
HEAD, CONVOLUTION = "decision layer", "last convolution"


@cache
def every_study() -> dict[str, Study]:
    """Every plan that has results, by its name."""
    found = {}
    for plan in sorted(STUDIES.glob("*.yaml"), reverse=True):  # the bundled encoder first
        results = RESULTS / f"study_{plan.stem.replace('-', '_')}.jsonl"
        if results.is_file():
            found[plan.stem] = load_study(results, plan=read_plan(plan))
    return found


def studies() -> dict[str, Study]:
    """Those with pages of their own for each task and encoder."""
    return {name: study for name, study in every_study().items() if name not in STUDIES_OF_THE_METHOD}


# -- the first page ----------------------------------------------------------------------------------------------------


def three_numbers() -> str:
    """The same head, CIAO and the unfrozen last convolution, one line for each encoder, and what they say."""
    rows, files = [], []
    for study in studies().values():
        for task, encoder in study.pairs:
            results = study.results(task, encoder)
            if not {HEAD, CIAO, CONVOLUTION} <= set(results):
                continue
            scores = [spread(results[name].summary("accuracy"), "accuracy") for name in (HEAD, CIAO, CONVOLUTION)]
            against = {one.other: one.comparison for one in study.comparisons(task, encoder, ("network",))}
            gaps = [f"{100 * against[name].difference.mean:+.1f}".replace("-", "−") for name in (HEAD, CONVOLUTION)]
            rows.append([encoder, *scores, *gaps, str(len(results[CIAO].seeds))])
            files.append(4 * results[CIAO].trained / 1e6)
    header = ["encoder", "same head alone", "head + CIAO", "last convolution", "CIAO − head", "CIAO − conv", "seeds"]
    return f"""{table(header, rows)}

Accuracy in percent on faces of people who are not in the training split, mean ± standard deviation over seeds, and the
mean differences in points. “Same head” is the decision layer on the frozen encoder, “head + CIAO” the same with the
mask, “last convolution” the same head with the last convolution unfrozen.

- **CIAO helps a frozen encoder.** With the same head on the same stored features, the mask adds accuracy.
- **The paper's mask does not replace fine-tuning.** Unfreezing the last convolution trains as many parameters from the
  same stored features and reaches more. The mask can only weaken what the frozen convolution found; the unfrozen
  convolution may find something new.
- **The library's default may, too:** an excitation of rank 32 adds to what the mask divides.
  {default_in_short(every_study())}
- **What CIAO keeps:** the encoder stays as it is, so that one pass through it serves every world, and one file of
  {min(files):.0f} to {max(files):.0f} MB holds a world, with the paper's head."""


def together() -> str:
    found = Study([record for study in studies().values() for record in study.records])
    tables = tuple(one for one in (headlines(found), table_one(found)) if one)
    return as_markdown(narrow(Section("All encoders together", tables)), level=2).rstrip()


def sizes() -> str:
    found = Study([record for study in studies().values() for record in study.records])
    return as_markdown(narrow(Section("Trained parameters", (parameters(found),))), level=2).rstrip()


def painted() -> str:
    return f"""    python examples/quickstart.py --table benchmarks/results/painted_worlds.txt

The same encoder (`dlib-face`, on aligned faces) and the same painted faces, in four worlds that label them
differently. The head reads eight maps of positions, and CIAO is in its gain form with ranks of 16. Scores on people not
in training.

```text
{PAINTED.read_text().rstrip()}
```"""


def on_the_job() -> str:
    """Learning from streams, where that was measured."""
    found = measured()
    return "" if found is None else f"## Learning on the job\n\n{in_short(found)}"


def index() -> str:
    lines = []
    for name, (task, encoder, study) in pairs().items():
        methods = f"{len(study.results(task, encoder))} methods"
        what = "intervals, paired tests, learning curves, confusion matrices and searches"
        lines.append(f"- [{task}, {encoder}](results/{name}.md): {methods}; {what}")
    return "\n".join(lines)


def results_page() -> str:
    return f"""# Results

`python docs/make_results.py` wrote every number and picture on this page and on those it links to, from
`benchmarks/results/`.

## CIAO between its two neighbours: the three numbers that matter

{three_numbers()}

## Where to find what

- [One recipe for everybody](results/method.md): small heads, low ranks, few people, painted worlds; what was asked for
  and what is reached
{index()}
- [What was tried to bring CIAO closer](results/attempts.md) to the unfrozen convolution: other masks, other settings
- [How the defaults were chosen](results/defaults.md): one setting at a time, and where `a` starts
- [How the studies were made](results/setup.md): faces, budgets, commands, and an earlier run
- [Pictures without labels](results/unlabelled.md): what they add to few labels, and to one person
- [The encoder underneath](results/encoder.md): how `small-face` was trained

{together()}

## Four painted worlds

{painted()}

{on_the_job()}

{sizes()}
"""


# -- one page for each task with each encoder --------------------------------------------------------------------------


@cache
def pairs() -> dict[str, tuple[str, str, Study]]:
    """Task, encoder and study by the name of their page."""
    return {
        stem: (task, encoder, study)
        for study in studies().values()
        for (task, encoder), stem in picture_stems(study).items()
    }


def pair_page(stem: str, task: str, encoder: str, study: Study) -> str:
    """The report of one pair; its pictures go into docs/figures."""
    section = about(study, task, encoder, stem=stem)
    FIGURES.mkdir(exist_ok=True)
    for picture in section.pictures():
        (FIGURES / picture.name).write_bytes(picture.png)
    lines = missing(study) or ["Nothing that was planned."]
    text = as_markdown(narrow(section), level=1, figures="../figures")
    return f"""{text}
## Missing in this study

{chr(10).join(f"- {line}" for line in lines)}

[All results](../results.md) · [how the studies were made](setup.md)
"""


# -- how it was made, and what was tried -------------------------------------------------------------------------------


def setup_page() -> str:
    (train, test), epochs = networks_sizes()
    return f"""# How the studies were made

{commands()}

`../shared/faces`: {faces()}

Everything trains with bfloat16 autocast from the same stored features, or from pixels where a method changes what comes
before the cut. All methods of a study train for the same number of epochs, and each trains at the learning rate that
did best in a search of its own on held-out training people; all searches of a study try the same number of rates.
{budgets()}

The networks without CIAO and the baselines train by their task loss alone, like the "-" columns of the paper's Table I.
`ciao_peft/study/presets/` says how each method is set, and [experiments.md](../experiments.md) how to run a study of
your own. [encoders.md](../encoders.md) describes the weights of the three encoders.

## An earlier run: whole encoders, ten epochs, float32

{train:,} training and {test:,} test faces in the same six classes, {epochs:g} epochs. The networks without CIAO train
by their task loss alone; everything else has its default, and nothing was chosen by the test faces. Some people are in
both splits (`load_faces` says how many), so every row is a little too good. Mean ± standard deviation over seeds, in
percent. Seconds are the median of one training while other work ran on the machine, from stored features except for
`full`: they compare within the table only.

{networks()}

Rare classes have so few test faces that balanced accuracy moves a point by chance. The records are in
`benchmarks/results/real_faces.jsonl`; `benchmarks/studies/small-face.yaml` trains the same networks today.

[All results](../results.md)
"""


def defaults_page() -> str:
    return f"""# How the defaults were chosen

    ciao reproduce --plan benchmarks/studies/settings.yaml --output_dir runs/study-settings

This plan describes the comparison as a study. The tables below come from an earlier measurement of the same settings
(`benchmarks/results/real_faces.jsonl`): decision layer with CIAO, everything at its default of then but the one setting
named, trained on seven tenths of the training people and scored on the other three tenths, another division for each
seed. The test faces took no part. `inhibition_form` was `"divisive"`, the paper's, all along, without an excitation.

{settings()}

## The form of the mask

    python benchmarks/forms.py --data_dir ../shared/faces

Each form with the paper's head, the recipe of [one recipe for everybody](method.md), and one rate of the mask (0.01),
on training people who are held out. “rescaled” is Eq. 1 times the value at which a starts where that is above 1
([method.md](../method.md)): 3 for `small-face`, 10 for `dlib-face`. “E” is an excitation of rank 32, by itself LoRA.
The contrastive loss has a weight of 1 where none is named; the rows without a mask have none. {what_forms_say()}

{forms_tables()}

## Where a starts

    python benchmarks/start_of_a.py
    python benchmarks/start_of_a.py --num_splits 3 --starts 3 9 --rates 0.003 0.01
    python benchmarks/start_of_a.py --encoder prior_knowledge=runs/pk/encoder --epochs 2 --starts 1 3 9 27 81 \\
        --rates 0.003 0.01

Which a is large depends on u. So the start is measured in spreads of u, the standard deviation over samples, channels
and positions, on held-out training people. Where people were divided several times, a cell has one accuracy for each
division, in percent. `CIAOTrainer` starts a at about nine spreads. {three_or_nine()}

{starts_of_a()}

[All results](../results.md)
"""


def faces() -> str:
    """How many there are, as the trainings counted them."""
    record = next(one for study in studies().values() for one in study.records if one.split == "test")
    train, test = record.samples["train"], record.samples["test"]
    return f"""{train:,} training faces and {test:,} test faces of people not in training, in
{len(record.labels)} very unequal classes (`fear` and `contempt`, with fewer than 20 training faces, are left out)."""


def budgets() -> str:
    lines = [
        f"`{name}` trains for {study.plan.epochs:g} epochs and "
        + (f"tries {study.plan.search_rates} rates" if study.plan.search_rates else "searched for all settings before")
        for name, study in studies().items()
    ]
    return f"The study {'; '.join(lines)}."


def commands() -> str:
    return "\n".join(
        f"    ciao reproduce --plan benchmarks/studies/{name}.yaml --output_dir runs/study-{name} --num_processes 2"
        for name in studies()
    )


def attempts_page() -> str:
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

    return f"""# What was tried to bring CIAO closer

## Who may change what

Baselines that work “everywhere” change the trunk: nothing of theirs can be stored or shared between worlds, and a face
goes through the whole network once for each world. These are the best baselines that train from the same stored
features with no more parameters; the number in brackets is CIAO minus the baseline, in points of accuracy:
{on_the_same_features()}.

## Another mask

The ablations, each with its own search of the mask's learning rate, are {len(rows)} comparisons. Ahead of CIAO as it
is: {named(better)}. Ahead beyond chance, after Holm's correction: {named(clear)}. Where u is silent, M = u / (a + I) is
silent too, whatever I learns; (u + I) / a and (u - I) / a can speak there, as the unfrozen convolution can.

## Other settings

Each of these was changed alone, on held-out training people: the mask's learning rate, the start of a, the weight,
place, temperature and denominator of the contrastive loss, what the head sees and the balance of the batches
([defaults.md](defaults.md)). For each network, a search then varied the head's rate, the mask's rate, dropout,
temperature, weight and batch size together. The study `searched` trains ten seeds with what the searches found
([faces, searched](faces-searched-small-face.md)).

{found_by_searches()}

## The start of a

An encoder whose u is small was held back by it; [defaults.md](defaults.md#where-a-starts) has the measurements. Since
then a starts by the spread of u.

[All results](../results.md)
"""


def on_the_same_features() -> str:
    """The best baseline of those that train from the same stored features as CIAO, for each encoder."""
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
    heads = ["head", "mask", "conv", "dropout", "temperature", "weight", "batch"]
    text = table(["searched for", *heads, "accuracy", "trials"], rows)
    note = "Learning rates of the head, the mask and the unfrozen convolution; accuracy in percent on held-out people."
    return f"{text}\n\n{note}"


# -- the README -------------------------------------------------------------------------------------------------------


def short() -> str:
    """The README's table: what adapts, what it trains, what it reaches, and for how long it trained."""
    rows: list[list[str]] = []
    trained_for: dict[str, float] = {}
    for study in studies().values():
        for task, encoder in study.pairs:
            for name, result in study.results(task, encoder).items():
                if task == "faces" and name in NETWORKS:
                    trained_for[encoder] = study.plan.epochs
                    scores = [spread(result.summary(metric), metric) for metric in METRICS]
                    rows.append([encoder, name, *scores, f"{result.trained:,}", str(len(result.seeds))])
    header = ["real faces, six classes", "what trains", "accuracy", "balanced accuracy", "trained", "seeds"]
    epochs = [f"{encoder} {number:g}" for encoder, number in trained_for.items()]
    budgets = f"Epochs differ ({', '.join(epochs)}), so compare rows of one encoder only."
    return f"{table(header, rows)}\n\n{wrapped(budgets)}"


def encoder_page() -> str:
    card = json.loads(ENCODER.read_text())
    lines = [f"- `{key}`: `{json.dumps(value)}`" for key, value in card.items() if key != "preprocessing"]
    return f"""# The encoder underneath

`examples/pretrain_encoder.py` trained `small-face` to tell people apart:

{chr(10).join(lines)}

[All results](../results.md)
"""


def main() -> None:
    PAGES.mkdir(exist_ok=True)
    pages = {f"{stem}.md": pair_page(stem, *pair) for stem, pair in pairs().items()}
    pages |= {"setup.md": setup_page(), "attempts.md": attempts_page()}
    if METHOD in every_study():
        plans = ("small-face", "paper-encoders")
        before = {
            encoder: study.results(task, encoder)
            for study in map(studies().get, plans)
            if study
            for task, encoder in study.pairs
        }
        pages["method.md"] = method_page(every_study(), before)
    if (found := measured()) is not None:
        pages["streams.md"] = streams_page(found)
    pages |= {"defaults.md": defaults_page(), "encoder.md": encoder_page(), "unlabelled.md": unlabelled_page()}
    for old in PAGES.glob("*.md"):
        if old.name not in pages:
            old.unlink()
    for name, page in pages.items():
        (PAGES / name).write_text(wrap_page(page))
    (HERE / "results.md").write_text(wrap_page(results_page()))
    readme = README.read_text()
    for name, content in (("networks", short()), ("worlds", f"```text\n{PAINTED.read_text().rstrip()}\n```")):
        readme = fill(readme, name, content)
    README.write_text(readme)
    print(f"wrote {HERE / 'results.md'} and {len(pages)} pages in {PAGES}")


if __name__ == "__main__":
    main()
