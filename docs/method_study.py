"""The page docs/results/method.md: one recipe for everybody, as docs/make_results.py writes it.

The studies are benchmarks/studies/method.yaml, method-slices.yaml and method-worlds.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ciao_peft.markdown import markdown_table as table
from ciao_peft.study.analysis import CIAO, LEVEL, Result, Study, compare, holm
from ciao_peft.study.report import spread
from ciao_peft.study.report.text import p_value

FACES, SLICES, WORLDS = "method", "method-slices", "method-worlds"
STUDIES_OF_THE_METHOD = (FACES, SLICES, WORLDS)
OURS, CONVOLUTION = "compact CIAO", "last convolution"
MASKED = (OURS, CIAO)
METRICS = ("accuracy", "balanced_accuracy", "calibration_error")
NOT_YET = "–"


class Gap(NamedTuple):
    """Ours minus another, over the seeds both have: in points, and p of a paired t-test after Holm's correction."""

    other: str
    points: float
    p: float | None
    seeds: int


def gaps(results: Mapping[str, Result], others: list[str], metric: str) -> list[Gap]:
    """Ours against each of the others; p is corrected for their number."""
    ours, found = results[OURS].scores(metric), []
    for name in others:
        theirs = results[name].scores(metric)
        seeds = sorted(set(ours) & set(theirs))
        if seeds:
            one = compare([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
            found.append((name, 100 * one.difference.mean, one.t, len(seeds)))
    tested = [row for row in found if row[2] is not None]
    corrected = dict(zip([row[0] for row in tested], holm([row[2] for row in tested]), strict=True))
    return [Gap(name, points, corrected.get(name), seeds) for name, points, _, seeds in found]


def signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def said(gap: Gap) -> str:
    return f"{signed(gap.points)} (p {p_value(gap.p)}, {gap.seeds} seeds) against “{gap.other}”"


def small_rivals(results: Mapping[str, Result]) -> list[str]:
    """Those without CIAO that train no more numbers."""
    most = results[OURS].trained or 0
    return [name for name, one in results.items() if name not in MASKED and (one.trained or most + 1) <= most * 1.01]


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
        metrics = {task: study.metric(task, encoder).replace("_", " ") for task in tasks}
        parts.append(f"**{encoder}**\n\n{table(['what trains', *[f'{t}, {m}' for t, m in metrics.items()]], rows)}")
    return "\n\n".join(parts)


# -- what was asked for ------------------------------------------------------------------------------------------------


def verdict(met: bool | None) -> str:
    return {True: "met", False: "**not met**", None: "not measured yet"}[met]


def ahead_everywhere(study: Study, metric: str, points: float) -> tuple[bool, str]:
    met, told = True, []
    for task, encoder in study.pairs:
        results = study.results(task, encoder)
        if OURS not in results:
            continue
        worst = min(gaps(results, small_rivals(results), metric), key=lambda gap: gap.points, default=None)
        if worst is None:
            continue
        clear = points > 0 or (worst.p is not None and worst.p < LEVEL)
        met &= worst.points > 0 and worst.points >= points and clear
        told.append(f"{task}, {encoder}: {said(worst)}")
    return met and bool(told), "; ".join(told)


def goals(studies: Mapping[str, Study], paper_before: Result | None) -> str:
    faces, rows = studies[FACES], []
    for what, metric, points in (
        ("ahead of the best rival that is no larger, accuracy, p < 0.05", "accuracy", 0.0),
        ("the same, balanced accuracy, by 3 points", "balanced_accuracy", 3.0),
    ):
        met, told = ahead_everywhere(faces, metric, points)
        rows.append([what, verdict(met), told])
    if WORLDS in studies:
        told, won, lost = [], 0, 0
        for task, encoder in studies[WORLDS].pairs:
            results, metric = studies[WORLDS].results(task, encoder), studies[WORLDS].metric(task, encoder)
            if OURS in results and (found := gaps(results, small_rivals(results), metric)):
                worst = min(found, key=lambda gap: gap.points)
                won, lost = won + (worst.points > 0), lost + (worst.points <= 0)
                told.append(f"{task}, {encoder}: {signed(worst.points)} against “{worst.other}”")
        rows.append(["ahead in three of four painted worlds", verdict(won >= 3 * lost and won > 0), "; ".join(told)])
    told, met = [], True
    for task, encoder in faces.pairs:
        results = faces.results(task, encoder)
        if {OURS, CONVOLUTION} <= set(results):
            (accuracy,), (balanced,) = (gaps(results, [CONVOLUTION], m) for m in ("accuracy", "balanced_accuracy"))
            kilobytes = 2 * (results[OURS].trained or 0) / 1000
            met &= accuracy.points >= -0.5 and balanced.points > 0 and kilobytes <= 200
            told.append(
                f"{encoder}: {signed(accuracy.points)} accuracy, {signed(balanced.points)} balanced, {kilobytes:.0f} kB"
            )
    rows.append(["≤ 200 kB, within 0.5 points of the last convolution, better balanced", verdict(met), "; ".join(told)])
    if SLICES in studies:
        told, met = [], True
        for task, encoder in studies[SLICES].pairs:
            results = studies[SLICES].results(task, encoder)
            if OURS not in results or task.startswith("faces, 20"):
                continue
            worst = min(gaps(results, [n for n in results if n not in MASKED], "accuracy"), key=lambda gap: gap.points)
            met &= worst.points >= 1
            told.append(f"{task}, {encoder}: {signed(worst.points)} against “{worst.other}” ({worst.seeds} seeds)")
        rows.append(["1 and 5 % of the people: a point ahead of every rival", verdict(met), "; ".join(told)])
    for task, encoder in faces.pairs:
        now = faces.results(task, encoder).get(CIAO)
        if encoder == "small-face" and now is not None and paper_before is not None:
            gain = 100 * (now.mean("accuracy") - paper_before.mean("accuracy"))
            rows.append(
                ["the paper's form by this recipe, 1.5 points above before", verdict(gain >= 1.5), signed(gain)]
            )
    errors = {
        encoder: 100 * faces.results(task, encoder)[OURS].mean("calibration_error")
        for task, encoder in faces.pairs
        if OURS in faces.results(task, encoder)
    }
    told = "; ".join(f"{encoder}: {error:.1f} %" for encoder, error in errors.items())
    rows.append(["calibration error ≤ 3 % without a temperature", verdict(max(errors.values()) <= 3), told])
    return table(["asked for", "", "measured"], rows)


def method_page(studies: Mapping[str, Study], paper_before: Result | None) -> str:
    """The page, of the studies by the names of their plans."""
    faces = studies[FACES]
    plans = [name for name in STUDIES_OF_THE_METHOD if name in studies]
    commands = "\n".join(
        f"    ciao reproduce --plan benchmarks/studies/{name}.yaml --output_dir runs/study-{name}" for name in plans
    )
    parts = [f"**{encoder}**\n\n{scores_table(faces, task, encoder)}" for task, encoder in faces.pairs]
    few = (
        f"""
## Few people with labels

Faces of 1, 5 and 20 % of the training people, others for each seed, sixty epochs, batches of 32; mean ± standard
deviation, with the number of seeds.

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
    return f"""# One recipe for everybody

{commands}

Every method has the same recipe: each picture and its mirror image, twelve epochs, batches of 128 in plain order,
warm-up and a cosine. On the full training split each searches two learning rates on held-out training people. “decision
layer”, “decision layer + CIAO” and “last convolution” have the paper's head, 256 units on the flattened map; “compact”
ones read eight learned maps of positions. “compact CIAO” is `CIAOConfig.preset("compact")`: the gain form, with E and I
of rank 16. The networks whose trunk trains are not among them: they cannot share its features.

## All training people

{chr(10).join(part + chr(10) for part in parts)}
kB are those of the trained numbers in float16. Accuracy in percent on faces of people who are not in training, mean ±
standard deviation over seeds.

## What was asked for

{goals(studies, paper_before)}
{few}{painted}
[All results](../results.md)
"""
