"""The page docs/results/method.md: one recipe for everybody, as docs/make_results.py writes it.

The studies are benchmarks/studies/method.yaml, method-prior-knowledge.yaml, method-slices.yaml and method-worlds.yaml.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ciao_peft.markdown import markdown_table as table
from ciao_peft.study.analysis import CIAO, LEVEL, NETWORKS, Result, Study, compare, holm
from ciao_peft.study.report import spread
from ciao_peft.study.report.text import p_value

FACES, TRAINED, SLICES, WORLDS = "method", "method-prior-knowledge", "method-slices", "method-worlds"
STUDIES_OF_THE_METHOD = (FACES, TRAINED, SLICES, WORLDS)
CALIBRATED = Path(__file__).parent.parent / "benchmarks" / "results" / "calibration.jsonl"
Before = Mapping[str, Mapping[str, Result]]  # what studies with the recipe before found, by encoder and method
OURS, DEFAULT, FOR_FEW, CONVOLUTION = "compact CIAO", "shunting CIAO", "rescaled CIAO", "last convolution"
MASKED = (DEFAULT, OURS, FOR_FEW, CIAO)
SMALL = {"small-face": OURS, "dlib-face": "compact head"}  # what the summary says of each encoder
ALL_PEOPLE = ", all people"  # after the name of a method whose temperature is fitted by folds
METRICS = ("accuracy", "balanced_accuracy", "calibration_error")
SMALL_WORLD = Path(__file__).parent.parent / "benchmarks" / "results" / "small_world.json"
NOT_YET = "–"


class Gap(NamedTuple):
    """Ours minus another, over the seeds both have: in points, and p of a paired t-test after Holm's correction."""

    other: str
    points: float
    p: float | None
    seeds: int


def gaps(results: Mapping[str, Result], ours: str, others: list[str], metric: str) -> list[Gap]:
    """One of ours against each of the others; p is corrected for their number."""
    mine, found = results[ours].scores(metric), []
    for name in others:
        theirs = results[name].scores(metric)
        seeds = sorted(set(mine) & set(theirs))
        if seeds:
            one = compare([mine[seed] for seed in seeds], [theirs[seed] for seed in seeds])
            found.append((name, 100 * one.difference.mean, one.t, len(seeds)))
    tested = [row for row in found if row[2] is not None]
    corrected = dict(zip([row[0] for row in tested], holm([row[2] for row in tested]), strict=True))
    return [Gap(name, points, corrected.get(name), seeds) for name, points, _, seeds in found]


def worst_gap(results: Mapping[str, Result], ours: str, metric: str, *, any_size: bool = False) -> Gap | None:
    """Against the best of those without CIAO, by default of those that train no more numbers."""
    most = (results[ours].trained or 0) * 1.01
    rivals = {name: one for name, one in results.items() if not name.endswith("CIAO")}
    others = [name for name, one in rivals.items() if any_size or (one.trained or most + 1) <= most]
    return min(gaps(results, ours, others, metric), key=lambda gap: gap.points, default=None)


def signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def all_encoders(studies: Mapping[str, Study]) -> Study:
    """The full split on every encoder: the two studies of it as one."""
    return Study([record for name in (FACES, TRAINED) if name in studies for record in studies[name].records])


def short_name(task: str) -> str:
    """What a task adds to the name of the encoder."""
    name = task.removeprefix("faces, ").removesuffix(" of the people")
    return "" if name == "one recipe" else name


def said(gap: Gap) -> str:
    return f"{signed(gap.points)} (p {p_value(gap.p)}) against “{gap.other}”"


def scores_table(study: Study, task: str, encoder: str) -> str:
    results = study.results(task, encoder)
    rows = []
    for name, one in results.items():
        kilobytes = NOT_YET if one.trained is None else f"{2 * one.trained / 1000:,.0f}"
        cells = [
            spread(one.summary(metric), metric) for metric in ("accuracy", "balanced_accuracy", "calibration_error")
        ]
        rows.append([name, f"{one.trained:,}", kilobytes, *cells, str(len(one.seeds))])
    return table(["what trains", "numbers", "kB", "accuracy", "balanced", "calibration error", "seeds"], rows)


def wide_table(study: Study) -> str:
    """A row for each method, a column for each task; one table for each encoder."""
    parts = []
    encoders = dict.fromkeys(encoder for _, encoder in study.pairs)
    for encoder in encoders:
        tasks = [task for task, other in study.pairs if other == encoder]
        names = dict.fromkeys(name for task in tasks for name in study.results(task, encoder))
        rows = []
        for name in names:
            row = [name]
            for task in tasks:
                one = study.results(task, encoder).get(name)
                metric = study.metric(task, encoder)
                row.append(NOT_YET if one is None else f"{spread(one.summary(metric), metric)} ({len(one.seeds)})")
            rows.append(row)
        parts.append(f"**{encoder}**\n\n{table(['what trains', *map(short_name, tasks)], rows)}")
    return "\n\n".join(parts)


def before_and_now(study: Study, before: Before) -> str:
    """The paper's networks by the recipe before and by this one, and the compact adapters: a table for each encoder."""
    parts = []
    for task, encoder in study.pairs:
        now, then = study.results(task, encoder), before.get(encoder, {})
        names = [name for name in NETWORKS if name in now or name in then]
        names += [name for name in now if name not in names]
        cells = [[one.get(name) for one in (then, now)] for name in names]
        rows = [
            [name, *(NOT_YET if one is None else spread(one.summary("accuracy"), "accuracy") for one in row)]
            for name, row in zip(names, cells, strict=True)
        ]
        parts.append(f"**{encoder}**\n\n{table(['what trains', 'before', 'now'], rows)}")
    return "\n\n".join(parts)


def temperatures() -> dict[tuple[str, str], list[dict]]:
    """The adapters whose temperature was fitted, by encoder and method; those that learned from all people apart."""
    found: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for line in map(json.loads, CALIBRATED.read_text(encoding="utf-8").splitlines()):
        encoder = line["encoder"].removesuffix("-3-aligned")
        found[encoder, line["method"] + (ALL_PEOPLE if line.get("folds") else "")].append(line)
    return found


def calibrated() -> str:
    """What a temperature fitted to held-out people is worth."""
    if not CALIBRATED.is_file():
        return ""
    found = temperatures()

    def percent(some: list[dict], when: str, score: str) -> str:
        return f"{100 * statistics.mean(line[when][score] for line in some):.1f}"

    rows = [
        [
            encoder,
            method,
            percent(some, "after", "accuracy"),
            percent(some, "before", "calibration_error"),
            percent(some, "after", "calibration_error"),
            percent(some, "held_out", "calibration_error") if some[0]["held_out"] else "",
            f"{statistics.mean(line['temperature'] for line in some):.2f}",
            str(len(some)),
        ]
        for (encoder, method), some in found.items()
    ]
    moved = [line["temperature"] for line in found["small-face", DEFAULT]]
    header = ["encoder", "what trains", "accuracy", "error", "calibrated", "held-out people", "temperature", "seeds"]
    return f"""
## How sure an adapter is

    python benchmarks/calibration.py --data_dir ../shared/faces

`CIAOTrainer.calibrate` fits one number, the temperature, to people who are held out: here a fifth of the training
people, so that fewer are left to learn from than above. “Error” is the calibration error on test faces before,
“calibrated” after; “held-out people” after, on those to whom it was fitted. All in percent. Faces of the test split are
harder to read than those of training people who are held out, so a temperature that is right for these leaves some of
the error of those: fit it to faces of the place where an adapter works. Which people are held out moves the
temperature, from {min(moved):.1f} to {max(moved):.1f} for “{DEFAULT}” on `small-face`. “All people” learns from all of
them, and its temperature is fitted to answers of five other adapters, each trained without a fifth of the people
(`trainer.calibrate(faces, subject_folds(people, 5))`, `ciao train --calibration_folds 5`).

{table(header, rows)}
"""


# -- what was asked for ------------------------------------------------------------------------------------------------


def verdict(met: bool | None) -> str:
    return {True: "met", False: "**not met**", None: "not measured yet"}[met]


def told_everywhere(study: Study, ours: str, metric: str | None, *, any_size: bool = False) -> dict[str, Gap]:
    """The gap to the best of the others, by task and encoder; in the metric of each task where none is named."""
    found = {}
    for task, encoder in study.pairs:
        results = study.results(task, encoder)
        if ours in results:
            gap = worst_gap(results, ours, metric or study.metric(task, encoder), any_size=any_size)
            if gap is not None:
                found[", ".join(filter(None, (short_name(task), encoder)))] = gap
    return found


def goal(study: Study, what: str, metric: str | None, is_met: Callable[[list[Gap]], bool], **sizes: bool) -> list[str]:
    """What was asked for, and what each of ours reached."""
    told = [what]
    for ours in MASKED:
        found = told_everywhere(study, ours, metric, **sizes)
        where = "; ".join(f"{place}: {said(gap)}" for place, gap in found.items())
        told.append(f"{verdict(is_met([*found.values()]))}: {where}" if found else verdict(None))
    return told


def ahead_with_few(study: Study, percent: int) -> str:
    """How far the form for few people is ahead of the best of all others with so many percent of them, in brackets."""
    few = Study([record for record in study.records if record.task.startswith(f"faces, {percent} ")])
    told = told_everywhere(few, FOR_FEW, "accuracy", any_size=True)
    said_of = [f"{signed(gap.points)} on `{place.split(', ')[-1]}`, p {p_value(gap.p)}" for place, gap in told.items()]
    return f" ({'; '.join(said_of)})" if said_of else ""


def small_against_default(study: Study) -> str:
    """What the small heads of the summary cost in accuracy, and what they gain in balanced accuracy, in brackets."""
    told = []
    for task, encoder in study.pairs:
        small, results = SMALL.get(encoder), study.results(task, encoder)
        if small in results and DEFAULT in results:
            points = [gaps(results, small, [DEFAULT], metric)[0].points for metric in METRICS[:2]]
            told.append(f"“{small}” {signed(points[0])} and {signed(points[1])} on `{encoder}`")
    return f" (accuracy and balanced accuracy against the default: {'; '.join(told)})" if told else ""


def against_all(study: Study) -> str:
    """How the default stands against the best of the others on each encoder: behind, level or ahead."""
    told = []
    for place, gap in told_everywhere(study, DEFAULT, "accuracy", any_size=True).items():
        clear = gap.p is not None and gap.p < LEVEL
        word = "level" if not clear else "ahead" if gap.points > 0 else "behind"
        if gap.p is None:
            told.append(f"{signed(gap.points)} to that on `{place}` with one seed")
        else:
            told.append(f"{word} on `{place}` ({signed(gap.points)}, p {p_value(gap.p)})")
    return f" {', '.join(told)}" if told else ""


def default_against(study: Study, other: str) -> str:
    """The default minus another in the metric of each task times 100, the mean over tasks, in brackets."""
    told: dict[str, list[float]] = defaultdict(list)
    for task, encoder in study.pairs:
        results = study.results(task, encoder)
        if {DEFAULT, other} <= set(results):
            told[encoder].append(gaps(results, DEFAULT, [other], study.metric(task, encoder))[0].points)
    parts = [f"{signed(statistics.mean(points))} on `{encoder}`" for encoder, points in told.items()]
    return f" ({', '.join(parts)} in the mean)" if parts else ""


def default_in_short(studies: Mapping[str, Study]) -> str:
    """What the default reaches against the last convolution unfrozen, by one recipe: for the page of all results."""
    told = [f"with all faces{default_against(all_encoders(studies), CONVOLUTION)}"]
    if WORLDS in studies:
        told.append(f"in painted worlds{default_against(studies[WORLDS], CONVOLUTION)}")
    return f"Against the last convolution, by [one recipe for everybody](results/method.md): {'; '.join(told)}."


def near_the_convolution(study: Study) -> list[str]:
    told = ["At most 200 kB, within 0.5 points of “last convolution”, and better balanced"]
    for ours in MASKED:
        measured, met = [], True
        for task, encoder in study.pairs:
            results = study.results(task, encoder)
            if {ours, CONVOLUTION} <= set(results):
                (accuracy,), (balanced,) = (gaps(results, ours, [CONVOLUTION], metric) for metric in METRICS[:2])
                kilobytes = 2 * (results[ours].trained or 0) / 1000
                met &= accuracy.points >= -0.5 and balanced.points > 0 and kilobytes <= 200
                points = f"{signed(accuracy.points)} accuracy, {signed(balanced.points)} balanced"
                measured.append(f"{encoder}: {points}, {kilobytes:,.0f} kB")
        told.append(f"{verdict(met)}: {'; '.join(measured)}")
    return told


def calibration(study: Study) -> list[str]:
    told = ["Calibration error of at most 3 %, without a temperature"]
    for ours in MASKED:
        errors = {
            encoder: 100 * study.results(task, encoder)[ours].mean("calibration_error")
            for task, encoder in study.pairs
            if ours in study.results(task, encoder)
        }
        measured = "; ".join(f"{name}: {error:.1f} %" for name, error in errors.items())
        told.append(f"{verdict(max(errors.values(), default=100) <= 3)}: {measured}")
    return told


def calibration_by_folds() -> str:
    """The same of the default, with a temperature that is fitted by folds of all training people."""
    errors = {
        encoder: [100 * line["after"]["calibration_error"] for line in lines]
        for (encoder, method), lines in temperatures().items()
        if method == DEFAULT + ALL_PEOPLE
    }
    measured = "; ".join(
        f"{encoder}: {statistics.mean(each):.1f} % ({len(each)} {'seed' if len(each) == 1 else 'seeds'})"
        for encoder, each in errors.items()
    )
    met = all(statistics.mean(each) <= 3 for each in errors.values())
    return f"- The same with a temperature by folds of the people, “{DEFAULT}”, {verdict(met)}: {measured}"


def few_pictures() -> str:
    """The default against the same head alone, with 190 pictures and 20 epochs, all else left out."""
    rows = {
        row["form"]: [100 * share for share in row["accuracy"]]
        for row in json.loads(SMALL_WORLD.read_text())["rows"]
        if row["recipe"] == "left out, 20 epochs"
    }
    ours, head = rows["CIAO, rescaled, with excitation of rank 32 (default)"], rows["the head alone"]
    means = f"{statistics.mean(ours):.1f} against {statistics.mean(head):.1f}"
    met = all(one >= other for one, other in zip(ours, head, strict=True))
    return (
        "- Some 200 pictures, 20 epochs, all else left out: never below the same head without the mask, "
        f"“{DEFAULT}”, {verdict(met)}: {means} ({len(ours)} seeds)"
    )


def goals(studies: Mapping[str, Study], paper_before: Result | None) -> str:
    """What was asked for, and how far it is reached: a list."""
    faces = studies[FACES]

    def clearly(found: list[Gap]) -> bool:
        return all(gap.points > 0 and gap.p is not None and gap.p < LEVEL for gap in found)

    def in_three_of_four(found: list[Gap]) -> bool:
        return 4 * sum(gap.points > 0 for gap in found) >= 3 * len(found)

    def by(points: float) -> Callable[[list[Gap]], bool]:
        return lambda found: all(gap.points >= points for gap in found)

    asked = [
        goal(faces, "Accuracy: ahead of the best that is no larger, p < 0.05", "accuracy", clearly),
        goal(faces, "Balanced accuracy: ahead of it by 3 points", "balanced_accuracy", by(3)),
        near_the_convolution(faces),
    ]
    if WORLDS in studies:
        what = "Painted worlds: ahead of the best that is no larger in three of four"
        asked.append(goal(studies[WORLDS], what, None, in_three_of_four))
    if SLICES in studies:
        few = Study([record for record in studies[SLICES].records if not record.task.startswith("faces, 20")])
        asked.append(
            goal(few, "1 and 5 % of the people: a point ahead of all without CIAO", "accuracy", by(1), any_size=True)
        )
    asked.append(calibration(faces))
    lines = []
    for what, *told in asked:
        each = [f"- “{ours}”, {one}" for ours, one in zip(MASKED, told, strict=True)]
        lines.append("\n".join([f"- {what}:", *(f"  {line}" for line in each)]))
    if CALIBRATED.is_file():
        lines.append(calibration_by_folds())
    if SMALL_WORLD.is_file():
        lines.append(few_pictures())
    now = faces.results(faces.pairs[0][0], "small-face").get(CIAO)
    if now is not None and paper_before is not None:
        gain = 100 * (now.mean("accuracy") - paper_before.mean("accuracy"))
        told = f"{verdict(gain >= 1.5)}: {signed(gain)}"
        lines.append(f"- Eq. 1 by this recipe, 1.5 points above the recipe before, on `small-face`: {told}")
    return "\n".join(lines)


def method_page(studies: Mapping[str, Study], before: Before) -> str:
    """The page, of the studies by the names of their plans and of those with the recipe before."""
    studies = {**studies, FACES: all_encoders(studies)}
    faces = studies[FACES]
    plans = [name for name in STUDIES_OF_THE_METHOD if name in studies]
    commands = "\n".join(
        f"    ciao reproduce --plan benchmarks/studies/{name}.yaml --output_dir runs/study-{name}" for name in plans
    )
    parts = [f"**{encoder}**\n\n{scores_table(faces, task, encoder)}" for task, encoder in faces.pairs]
    in_few, in_fewest = (ahead_with_few(studies[SLICES], share) if SLICES in studies else "" for share in (5, 1))
    of_slices = studies[SLICES].pairs if SLICES in studies else []
    *some, most = sorted({int(task.split()[1]) for task, _ in of_slices}) or [0]
    shares = f"{', '.join(map(str, some))} and {most} %"
    few = (
        f"""
## Few people with labels

Faces of {shares} of the training people, others for each seed, sixty epochs, batches of 32; accuracy in percent,
mean ± standard deviation, with the number of seeds.

{wide_table(studies[SLICES])}
"""
        if SLICES in studies
        else ""
    )
    painted = (
        f"""
## Painted worlds

{wide_table(studies[WORLDS])}
"""
        if WORLDS in studies
        else ""
    )
    against, on_all = small_against_default(faces), against_all(faces)
    to_paper, to_convolution = (
        default_against(studies[WORLDS], other) if WORLDS in studies else "" for other in (CIAO, CONVOLUTION)
    )
    return f"""# One recipe for everybody

{commands}

**In short.** Which form wins depends on how many labels there are. The library's default is “shunting CIAO”: an
[excitation E](../method.md) of rank 32 and the inhibitory copy I on the frozen convolution u, M = max(1, a₀) (u + E) /
(a + I), with a contrastive loss of weight 0.1. With all training people it is, in accuracy and against the best without
CIAO,{on_all}. In painted worlds
it is far ahead of Eq. 1 as it is written{to_paper}, and level with the last convolution unfrozen{to_convolution}.
Where few people have labels, E learns these people: without it, as “rescaled CIAO”
(`CIAOConfig.preset("small-data")`), an adapter is ahead of all that is not CIAO, in the mean, with faces of
5 % of the people{in_few}; with 1 %, no lead of it is certain{in_fewest}. A head of eight maps of positions takes about
a twentieth of the room or less{against}. `ciao tune` chooses on held-out people.

Every method has the same recipe: each picture and its mirror image, twelve epochs, batches of 128 in plain order,
warm-up and a cosine. On the full training split each searches two learning rates on held-out training people.
All but the “compact” ones have the paper's head, 256 units on the flattened map; “compact” ones read eight learned maps
of positions. “decision layer + CIAO” is Eq. 1 as it is written; “compact CIAO” is `CIAOConfig.preset("compact")`: the
gain form, with E and I of rank 16. `dlib-face` sees aligned faces; on `prior_knowledge` nothing is searched, and
trainings run in bfloat16. The networks whose trunk trains are not among them: they cannot share its features.

## All training people

{chr(10).join(part + chr(10) for part in parts)}
“numbers” are those that train, kB what they take in float16; “balanced” is balanced accuracy, the mean of the classes'
recalls. All scores in percent on faces of people who are not in training, mean ± standard deviation over seeds; a lower
calibration error is better.

## What was asked for

A method meets a goal only where it does so on every encoder and with every number of people. Differences are in
points, over the seeds that both have, and p is of a paired t-test after Holm's correction.

{goals(studies, before.get("small-face", {}).get(CIAO))}

## The paper's networks and small heads, before and now

{before_and_now(faces, before)}

Accuracy in percent. “Before” are the studies with six epochs (two on `prior_knowledge`) and without mirrored pictures,
ten seeds each, whose pages [all results](../results.md) lists; “now” is the recipe above. The paper's Eq. 1-5 is
`CIAOConfig.preset("paper")`.
{calibrated()}{few}{painted}
[All results](../results.md)
"""
