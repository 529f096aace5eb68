"""The tables of a report, as cells that a page or a text can be made of."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from ..analysis.study import CIAO, COMPARED, LEVEL, MARGIN, Against, RateTrial, Result, Study, within_margin
from ..paper import WITH_CIAO
from .cells import Cell, Table, count_cell, interval_cell, make_table, score_cell
from .text import NOTHING, in_percent, kind_name, number, p_value, score_name

RATES = {"learning_rate": "head", "mask_learning_rate": "mask", "encoder_learning_rate": "encoder"}


# -- in short ----------------------------------------------------------------------------------------------------------


def headlines(study: Study) -> Table | None:
    """One line per task and encoder: "decision layer + CIAO" against its own head and the best baseline of its size.

    Example:
        >>> from ciao_peft.study.example import example_study
        >>> row = headlines(example_study()).rows[0]
        >>> [cell.text for cell in row][3:7]
        ['85.0 ± 5.8', '+20.0', '0.033', 'MLP head']
    """
    rows = []
    for task, encoder in study.pairs:
        metric, mine = study.metric(task, encoder), study.results(task, encoder).get(CIAO)
        if mine is None or not mine.scores(metric):
            continue
        comparisons = study.comparisons(task, encoder, COMPARED)
        against = {comparison.other: comparison for comparison in comparisons}
        baselines = study.baselines(task, encoder)
        baseline = baselines[0] if baselines else None
        inside = within_margin(baseline.differences, candidates=len(baselines)).inside if baseline else None
        verdict = {True: "yes", False: "no", None: "cannot tell"}[inside] if baseline else NOTHING
        rows.append(
            [
                Cell(task),
                Cell(encoder),
                Cell(score_name(metric)),
                score_cell(mine.summary(metric), metric),
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
        "p (baseline)",
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
    return make_table("In short", header, rows, note)


def _lead(against: Against | None) -> tuple[Cell, Cell]:
    """A difference and its p."""
    if against is None:
        return Cell(NOTHING), Cell(NOTHING)
    mean, p = against.comparison.difference.mean, against.corrected
    return Cell(number(mean, against.metric, signed=True), mean), Cell(p_value(p), p, p is not None and p < LEVEL)


# -- methods side by side ----------------------------------------------------------------------------------------------


def ranking(study: Study, task: str, encoder: str, kinds: Sequence[str], title: str) -> Table | None:
    """Every method of some kinds, the best first, with its difference to "decision layer + CIAO".

    Args:
        study: With results.
        task, encoder: One of its pairs.
        kinds: Kinds of methods to show.
        title: Of the table.

    Returns:
        `None` where no method of these kinds has a score.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> study = example_study()
        >>> table = ranking(study, TASK, ENCODER, ["network", "rival"], "Methods")
        >>> [row[0].text for row in table.rows]
        ['decision layer + CIAO', 'MLP head', 'decision layer']
    """
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
                score_cell(result.summary(main), main),
                interval_cell(result.summary(main), main),
                *(score_cell(result.summary(name), name) for name in metrics[1:]),
                lead,
                interval_cell(difference, main, signed=True),
                Cell(p_value(p), p, strong=p is not None and p < LEVEL),
                count_cell(result.trained),
                count_cell(result.seconds),
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
    return make_table(title, header, rows, note)


def _rate_cell(result: Result) -> Cell:
    if result.rate is None:
        return Cell(NOTHING)
    name, value = result.rate
    return Cell(f"{value:g} ({RATES.get(name, name)})", value)


def paired_tests(study: Study, task: str, encoder: str, metric: str) -> Table | None:
    """All paired tests of "decision layer + CIAO" against the others on one score.

    Args:
        study: With results.
        task, encoder: One of its pairs.
        metric: Name of the score.

    Returns:
        `None` where there is nothing to compare.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> study = example_study()
        >>> [[cell.text for cell in row][:2] for row in paired_tests(study, TASK, ENCODER, "accuracy").rows]
        [['decision layer', '+20.0'], ['MLP head', '+10.0']]
    """
    rows = []
    for kinds in (COMPARED, ("ablation",)):
        for against in study.comparisons(task, encoder, kinds, metric):
            result, corrected = against.comparison, against.corrected
            rows.append(
                [
                    Cell(against.other),
                    Cell(number(result.difference.mean, metric, signed=True), result.difference.mean),
                    Cell(NOTHING if result.difference.sd is None else number(result.difference.sd, metric)),
                    interval_cell(result.difference, metric, signed=True),
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
    return make_table(f"Paired tests, {score_name(metric)}", (*header, "pairs"), rows, note)


def _effect(d: float | None) -> Cell:
    if d is None:
        return Cell(NOTHING)
    text = f"{d:+.2f}" if math.isfinite(d) else f"{'+' if d > 0 else '-'}∞"  # all differences are the same
    return Cell(text.replace("-", "−"), d if math.isfinite(d) else None)


# -- learning rates ----------------------------------------------------------------------------------------------------


def searches(study: Study, task: str, encoder: str) -> Table | None:
    """What each method's learning-rate search tried, and what it found on held-out people.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> study = example_study()
        >>> [cell.text for cell in searches(study, TASK, ENCODER).rows[0]][:4]
        ['decision layer', 'head', '0.001: 50.0', '0.01: 60.0']
    """
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
    return make_table("Learning-rate searches", header, rows, note)


def _at_edge(trials: list[RateTrial], chosen: Result | None) -> str:
    rate = chosen.rate[1] if chosen and chosen.rate else max(trials, key=lambda trial: trial.mean).rate
    if len(trials) > 1 and rate == trials[0].rate:
        return "lowest"
    return "highest" if len(trials) > 1 and rate == trials[-1].rate else ""


# -- how it was made ---------------------------------------------------------------------------------------------------


def methods(study: Study) -> Table:
    """What each method is: its settings where they differ from the defaults, and how long it trained.

    Example:
        >>> from ciao_peft.study.example import example_study
        >>> [cell.text for cell in methods(example_study()).rows[0]]
        ['decision layer', 'network', 'inhibition=false', '6', '4']
    """
    by_name: dict[str, list[Result]] = {}
    for pair in study.pairs:
        for name, result in study.results(*pair).items():
            by_name.setdefault(name, []).append(result)
    rows = []
    for name, results in by_name.items():
        records = [record for result in results for record in result.records]
        settings = [{**r.settings, **r.config, **_without_rates(r.arguments)} for r in records]
        same = {key: value for key, value in settings[0].items() if all(own.get(key) == value for own in settings)}
        epochs = sorted({record.epochs for record in records})
        rows.append(
            [
                Cell(name),
                Cell(kind_name(results[0].kind)),
                Cell(", ".join(f"{key}={json.dumps(value)}" for key, value in same.items()) or NOTHING),
                Cell(" or ".join(f"{count:g}" for count in epochs), epochs[0]),
                count_cell(len(records)),
            ]
        )
    note = "Settings that all trainings of a method share; learning rates, which each search chose, are above."
    return make_table("Methods", ("method", "kind", "settings", "epochs", "trainings"), rows, note)


def _without_rates(arguments: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if name not in RATES}
