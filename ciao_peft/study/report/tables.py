"""The tables of a report, as cells that a page or a text can be made of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..analysis.statistics import Summary
from ..analysis.study import CIAO, COMPARED, LEVEL, MARGIN, NETWORKS, Against, RateTrial, Result, Study, within_margin
from ..paper import (
    ENCODERS,
    RUNS,
    SCHEMES,
    TABLE_II,
    WITH_CIAO,
    PaperRival,
    paper_protocol,
    paper_scores,
    trained_beside_head,
)
from .text import NOTHING, in_percent, interval, kind_name, number, p_value, score_name, spread

RATES = {"learning_rate": "head", "mask_learning_rate": "mask", "encoder_learning_rate": "encoder"}


@dataclass(frozen=True)
class Cell:
    """Text of a table's cell, the number it is sorted by (`None`: by its text), and whether it stands out."""

    text: str
    value: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table with what must be known to read it.

    Args:
        title: Of the table.
        header: One name per column.
        rows: One cell per column.
        note: What the numbers are.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @property
    def numeric(self) -> list[bool]:
        """For each column whether it holds numbers to sort by."""
        return [any(row[column].value is not None for row in self.rows) for column in range(len(self.header))]


def _score(summary: Summary | None, metric: str, strong: bool = False) -> Cell:
    return Cell(spread(summary, metric), None if summary is None else summary.mean, strong)


def _interval(summary: Summary | None, metric: str, *, signed: bool = False) -> Cell:
    """Sorted by its lower end."""
    bounds = None if summary is None else summary.interval
    return Cell(interval(summary, metric, signed=signed), None if bounds is None else bounds[0])


def _count(count: float | None) -> Cell:
    return Cell(NOTHING if count is None else f"{count:,.0f}", count)


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[Cell]], note: str = "") -> Table:
    return Table(title, tuple(header), tuple(tuple(row) for row in rows), note)


# -- in short ----------------------------------------------------------------------------------------------------------


def headlines(study: Study) -> Table | None:
    """One line per task and encoder: "decision layer + CIAO" against its own head and the best baseline of its size."""
    rows = []
    for task, encoder in study.pairs:
        metric, mine = study.metric(task, encoder), study.results(task, encoder).get(CIAO)
        if mine is None or not mine.scores(metric):
            continue
        against = {one.other: one for one in study.comparisons(task, encoder, COMPARED)}
        baselines = study.baselines(task, encoder)
        baseline = baselines[0] if baselines else None
        inside = within_margin(baseline.differences, candidates=len(baselines)).inside if baseline else None
        verdict = {True: "yes", False: "no", None: "cannot tell"}[inside] if baseline else NOTHING
        rows.append(
            [
                Cell(task),
                Cell(encoder),
                Cell(score_name(metric)),
                _score(mine.summary(metric), metric),
                *_lead(against.get(CIAO.removesuffix(WITH_CIAO))),
                Cell(baseline.other if baseline else NOTHING),
                *_lead(baseline),
                Cell(verdict),
            ]
        )
    if not rows:
        return None
    header = (
        "task",
        "encoder",
        "score",
        CIAO,
        "− same head",
        "p",
        "best baseline",
        "− baseline",
        "p",
        "within a point",
    )
    note = (
        f"“− same head” and “− baseline” are “{CIAO}” minus the other, over the seeds both have; p is of a paired "
        f"t-test, after Holm's correction, and set off below {LEVEL:g}. The best baseline is the one furthest ahead of "
        f"those without CIAO that train no more parameters. “within a point”: whether CIAO is less than "
        f"{100 * MARGIN:g} point ({MARGIN:g}) behind that baseline, as far as a one-sided paired t-test can tell; "
        "because the best of several baselines is ahead by chance as well, a “no” is corrected after Bonferroni for "
        "their number."
    )
    return _table("In short", header, rows, note)


def _lead(against: Against | None) -> tuple[Cell, Cell]:
    """A difference and its p."""
    if against is None:
        return Cell(NOTHING), Cell(NOTHING)
    mean, p = against.comparison.difference.mean, against.corrected
    return Cell(number(mean, against.metric, signed=True), mean), Cell(p_value(p), p, p is not None and p < LEVEL)


# -- Table I and Table II ----------------------------------------------------------------------------------------------


def table_one(study: Study) -> Table:
    """Tasks x encoders x schemes, without and with CIAO, beside the paper's numbers where it has them."""
    rows = []
    for task, encoder in study.pairs:
        results = study.results(task, encoder)
        if not set(results) & set(NETWORKS):
            continue
        dataset = next(iter(results.values())).records[0].dataset
        main = study.metric(task, encoder)
        scores = [name for name in study.metrics(task, encoder) if name.startswith("concordance_")] or [main]
        for metric in scores:
            label = task if metric == main else f"{task}, {score_name(metric)}"
            for scheme in SCHEMES:
                names = (scheme, scheme + WITH_CIAO)
                without, with_ciao = (results[name].summary(metric) if name in results else None for name in names)
                if without is None and with_ciao is None:
                    continue
                theirs = [paper_scores(dataset, encoder, name).get(metric) for name in names]
                lead = with_ciao.mean - without.mean if with_ciao is not None and without is not None else 0.0
                seeds = [summary.n for summary in (without, with_ciao) if summary is not None]
                rows.append(
                    [
                        Cell(label),
                        Cell(score_name(metric if len(scores) == 1 else main)),
                        Cell(encoder),
                        Cell(scheme),
                        _score(without, metric, strong=lead < 0),
                        _score(with_ciao, metric, strong=lead > 0),
                        Cell(str(seeds[0]) if len(set(seeds)) == 1 else "/".join(map(str, seeds)), min(seeds)),
                        *(Cell(NOTHING if score is None else _printed(score, metric), score) for score in theirs),
                    ]
                )
    header = ("task", "score", "encoder", "trained", "−", "CIAO", "seeds", "paper, −", "paper, CIAO")
    if not any(row[-1].value is not None for row in rows):
        header, rows = header[:-2], [row[:-2] for row in rows]
        beside = " The paper did not run these tasks."
    else:
        beside = f" The paper gives means of {RUNS} runs without a standard deviation, on its own weights and splits."
    note = "Mean ± standard deviation over seeds on the test split; the better of each two is set off." + beside
    return _table("Table I: three schemes, without and with CIAO", header, rows, note)


def _printed(value: float, metric: str) -> str:
    """The paper's number in our unit, with the digits that it was printed with."""
    return f"{100 * value:.6g}" if in_percent(metric) else f"{value:.2f}"


def table_two(study: Study) -> Table | None:
    """The paper's comparison with published models, and ours beside its own; `None` without one of its tasks."""
    rows, otherwise = [], {}
    for row in TABLE_II:
        if (row.dataset, row.score) not in study.ran:
            continue
        result = _beside(study, row)
        if result and study.protocol(result.task) not in (None, paper_protocol(row.dataset)):
            otherwise[row.task] = result.task
        printed = Cell(_printed(row.value, row.score), row.value)
        ours = _score(result.summary(row.score) if result else None, row.score)
        rows.append([Cell(row.task), Cell(row.model), printed, ours])
    if not rows:
        return None
    note = "Published models as the paper cites them; they were trained on other data and with other backbones."
    for theirs, task in otherwise.items():
        note += f" Here, {theirs} is the task “{task}”, which is not split as the paper splits it."
    return _table("Table II: beside published models", ("task", "model", "paper", "here"), rows, note)


def _beside(study: Study, row: PaperRival) -> Result | None:
    """Our result that belongs beside a number of the paper: with its score, and split like it where there is one."""
    if row.method is None:
        return None
    ours = [study.results(task, encoder).get(row.method) for task, encoder in study.pairs if encoder == row.encoder]
    ours = [result for result in ours if result and result.records[0].dataset == row.dataset]
    ours = [result for result in ours if result.scores(row.score)]
    return min(ours, key=lambda result: study.protocol(result.task) != paper_protocol(row.dataset), default=None)


# -- methods side by side ----------------------------------------------------------------------------------------------


def ranking(study: Study, task: str, encoder: str, kinds: Sequence[str], title: str) -> Table | None:
    """Every method of these kinds, the best first, with its difference to "decision layer + CIAO"."""
    metrics = study.metrics(task, encoder)
    main = metrics[0]
    scored = [result for result in study.results(task, encoder).values() if result.scores(main)]
    chosen = [result for result in scored if result.kind in kinds or result.method == CIAO]
    if not any(result.kind in kinds for result in chosen):
        return None
    comparisons = {against.other: against for against in study.comparisons(task, encoder, kinds)}
    chosen.sort(key=lambda result: -result.mean(main))
    rows = []
    for result in chosen:
        against = comparisons.get(result.method)
        difference = None if against is None else against.comparison.difference
        lead = Cell(NOTHING)
        if difference is not None:
            lead = Cell(number(difference.mean, main, signed=True), difference.mean)
        p = None if against is None else against.corrected
        rows.append(
            [
                Cell(result.method, strong=result.method == CIAO),
                _score(result.summary(main), main),
                _interval(result.summary(main), main),
                *(_score(result.summary(name), name) for name in metrics[1:]),
                lead,
                _interval(difference, main, signed=True),
                Cell(p_value(p), p, strong=p is not None and p < LEVEL),
                _count(result.trained),
                _count(result.seconds),
                _rate_cell(result),
                Cell(str(len(result.seeds)), len(result.seeds)),
            ]
        )
    header = ["method", score_name(main), "95 % interval", *map(score_name, metrics[1:])]
    header += ["CIAO − it", "its 95 % interval", "p", "trained", "s", "rate", "seeds"]
    unit = "percent and points" if in_percent(main) else "as fractions"
    note = (
        f"Sorted by {score_name(main)}; mean ± standard deviation over seeds, {unit}. “CIAO − it” is “{CIAO}” minus "
        "the method, over the seeds both have; intervals are BCa bootstraps of the mean, each on its own; p is that of "
        f"a paired t-test, corrected together after Holm and set off below {LEVEL:g}. “trained” counts parameters, “s” "
        "is the median of one training, “rate” the learning rate that the method's own search chose."
    )
    return _table(title, header, rows, note)


def _rate_cell(result: Result) -> Cell:
    if result.rate is None:
        return Cell(NOTHING)
    name, value = result.rate
    return Cell(f"{value:g} ({RATES.get(name, name)})", value)


def paired_tests(study: Study, task: str, encoder: str, metric: str) -> Table | None:
    """All paired tests of "decision layer + CIAO" against the others on one score."""
    rows = []
    for kinds in (COMPARED, ("ablation",)):
        for against in study.comparisons(task, encoder, kinds, metric):
            result, corrected = against.comparison, against.corrected
            rows.append(
                [
                    Cell(against.other),
                    Cell(number(result.difference.mean, metric, signed=True), result.difference.mean),
                    Cell(NOTHING if result.difference.sd is None else number(result.difference.sd, metric)),
                    _interval(result.difference, metric, signed=True),
                    _effect(result.effect_size),
                    *(Cell(p_value(p), p) for p in (result.t, result.wilcoxon, result.sign_flip)),
                    Cell(p_value(corrected), corrected, corrected is not None and corrected < LEVEL),
                    Cell(str(result.difference.n), result.difference.n),
                ]
            )
    if not rows:
        return None
    header = ("CIAO −", "difference", "sd", "95 % interval", "d", "p (t)", "p (Wilcoxon)", "p (signs)", "p (t, Holm)")
    note = (
        "Paired by seed. d is Cohen's d of the differences; Wilcoxon's signed-rank test and the sign-flip permutation "
        "are exact, so that n pairs cannot bring them below 2/2ⁿ; where the differences do not vary at all, p (t) is "
        "that of the signs. Holm's correction is over networks and baselines together, and over the ablations together."
    )
    return _table(f"Paired tests, {score_name(metric)}", (*header, "pairs"), rows, note)


def _effect(d: float | None) -> Cell:
    if d is None:
        return Cell(NOTHING)
    text = f"{d:+.2f}" if math.isfinite(d) else f"{'+' if d > 0 else '-'}∞"  # all differences are the same
    return Cell(text.replace("-", "−"), d if math.isfinite(d) else None)


# -- parameters and learning rates -------------------------------------------------------------------------------------


def parameters(study: Study) -> Table | None:
    """Trained parameters per network, averaged over the tasks (Fig. 4)."""
    rows = []
    for encoder in dict.fromkeys(encoder for _, encoder in study.pairs):
        by_method: dict[str, list[int]] = {}
        for (_, other), results in study.results_by.items():
            for name, result in results.items():
                if other == encoder and result.kind != "ablation" and result.trained is not None:
                    by_method.setdefault(name, []).append(result.trained)
        for name, counts in by_method.items():
            theirs = trained_beside_head(encoder, name)
            rows.append(
                [Cell(encoder), Cell(name), _count(float(np.mean(counts))), _count(len(counts)), _count(theirs)]
            )
    if not rows:
        return None
    header = ["encoder", "method", "trained", "tasks", "of these in the paper's encoder"]
    note = "Trained parameters with the decision layer, averaged over the tasks."
    if any(row[-1].value is not None for row in rows):
        names = " and ".join(ENCODERS)
        note += (
            f" The paper draws its Fig. 4 without numbers; the last column is what its description of {names} makes "
            "the part beside the decision layer."
        )
    else:
        header, rows = header[:-1], [row[:-1] for row in rows]
    return _table("Trained parameters (Fig. 4)", header, rows, note)


def searches(study: Study, task: str, encoder: str) -> Table | None:
    """What each method's learning-rate search tried, and what it found on held-out people."""
    by_method = {name: trials for name, trials in study.searches(task, encoder).items() if trials}
    if not by_method:
        return None
    tried = (task, encoder, "validation")
    metric = next(r.metric for r in study.records if (r.task, r.encoder, r.split) == tried)
    columns = max(len(trials) for trials in by_method.values())
    rows = []
    for name, trials in by_method.items():
        best = max(trial.mean for trial in trials)
        cells = [
            Cell(f"{t.rate:g}: {number(t.mean, metric)}", t.mean, t.mean == best)
            if math.isfinite(t.mean)
            else Cell(f"{t.rate:g}: diverged")
            for t in trials
        ]
        chosen = study.results(task, encoder).get(name)
        edge = _at_edge(trials, chosen)
        rate = RATES.get(trials[0].name, trials[0].name)
        blank = [Cell(NOTHING)] * (columns - len(cells))
        rows.append([Cell(name), Cell(rate), *cells, *blank, Cell(edge), Cell(str(trials[0].n), trials[0].n)])
    header = ["method", "rate of", *(f"try {index + 1}" for index in range(columns)), "best at the edge", "seeds"]
    note = (
        f"Learning rate: {score_name(metric)} on people held out of the training split; the best is set off. The test "
        "split takes no part. A best rate at the edge of its grid may not be the best there is."
    )
    return _table("Learning-rate searches", header, rows, note)


def _at_edge(trials: list[RateTrial], chosen: Result | None) -> str:
    rate = chosen.rate[1] if chosen and chosen.rate else max(trials, key=lambda trial: trial.mean).rate
    if len(trials) > 1 and rate == trials[0].rate:
        return "lowest"
    return "highest" if len(trials) > 1 and rate == trials[-1].rate else ""


# -- how it was made ---------------------------------------------------------------------------------------------------


def methods(study: Study) -> Table:
    """What each method is: its settings where they differ from the defaults, and how long it trained."""
    by_name: dict[str, list[Result]] = {}
    for pair in study.pairs:
        for name, result in study.results(*pair).items():
            by_name.setdefault(name, []).append(result)
    rows = []
    for name, results in by_name.items():
        records = [record for result in results for record in result.records]
        settings = [{**one.settings, **one.config, **_without_rates(one.arguments)} for one in records]
        same = {key: value for key, value in settings[0].items() if all(one.get(key) == value for one in settings)}
        epochs = sorted({record.epochs for record in records})
        rows.append(
            [
                Cell(name),
                Cell(kind_name(results[0].kind)),
                Cell(", ".join(f"{key}={json.dumps(value)}" for key, value in same.items()) or NOTHING),
                Cell(" or ".join(f"{one:g}" for one in epochs), epochs[0]),
                _count(len(records)),
            ]
        )
    note = "Settings that all trainings of a method share; learning rates, which each search chose, are above."
    return _table("Methods", ("method", "kind", "settings", "epochs", "trainings"), rows, note)


def _without_rates(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if name not in RATES}
