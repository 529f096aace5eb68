"""Numbers as text, and the findings in words: never more than the tests support."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..analysis.statistics import Summary
from ..analysis.study import (
    BASELINE,
    CIAO,
    COMPARED,
    LEVEL,
    MARGIN,
    NETWORKS,
    Against,
    Result,
    Study,
    sampling_error,
    scored,
    within_margin,
)
from ..paper import TABLE_I

NOTHING = "–"
SCORE_NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "concordance_arousal": "arousal",
    "concordance_valence": "valence",
    "macro_f1": "macro F1",
    "rmse": "RMSE",
}


# -- names and numbers as text -----------------------------------------------------------------------------------------


def score_name(metric: str) -> str:
    """A score's name in tables.

    Example:
        >>> score_name("macro_f1"), score_name("concordance_valence"), score_name("f1_happy")
        ('macro F1', 'valence', 'f1 happy')
    """
    return SCORE_NAMES.get(metric, metric.replace("_", " "))


def kind_name(kind: str) -> str:
    """A method's kind as it is shown.

    Example:
        >>> kind_name("rival"), kind_name("network")
        ('baseline', 'network')
    """
    return "baseline" if kind == BASELINE else kind


def printable(name: str) -> str:
    r"""A name out of a record on one line; characters that cannot be shown or written become `\ufffd`.

    Example:
        >>> printable("two\nlines"), printable("half a pair \ud800") == "half a pair \ufffd"
        ('two lines', True)
    """
    name = " ".join(name.split())
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)


def in_percent(metric: str) -> bool:
    """Whether a score is shown in percent; concordances and errors are shown as they are.

    Example:
        >>> in_percent("accuracy"), in_percent("concordance_arousal")
        (True, False)
    """
    return not metric.startswith(("concordance", "rmse"))


def number(value: float, metric: str, *, signed: bool = False) -> str:
    """A score or a difference of scores as text.

    Example:
        >>> number(0.8051, "accuracy"), number(-0.013, "accuracy", signed=True), number(0.471, "concordance")
        ('80.5', '−1.3', '0.471')
    """
    factor, decimals = (100, 1) if in_percent(metric) else (1, 3)
    text = f"{factor * value:{'+' if signed else ''}.{decimals}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", "−")


def spread(summary: Summary | None, metric: str) -> str:
    """Mean and standard deviation as text; the mean alone of one seed, and a dash for `None`.

    Example:
        >>> spread(Summary(3, 0.805, 0.004, (0.801, 0.808)), "accuracy")
        '80.5 ± 0.4'
        >>> spread(Summary(1, 0.471, None, None), "concordance")
        '0.471'
    """
    if summary is None:
        return NOTHING
    sd = "" if summary.sd is None else f" ± {number(summary.sd, metric)}"
    return number(summary.mean, metric) + sd


def interval(summary: Summary | None, metric: str, *, signed: bool = False) -> str:
    """The 95 % interval as text; a dash where there is none.

    Example:
        >>> interval(Summary(3, 0.805, 0.004, (0.801, 0.808)), "accuracy")
        '80.1 to 80.8'
    """
    if summary is None or summary.interval is None:
        return NOTHING
    return " to ".join(number(bound, metric, signed=signed) for bound in summary.interval)


def p_value(p: float | None) -> str:
    """`0.012`, `< 0.001`.

    Example:
        >>> p_value(0.0123), p_value(2e-6), p_value(0.9996), p_value(None)
        ('0.012', '< 0.001', '1.000', '–')
    """
    if p is None:
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


# -- what the numbers support ------------------------------------------------------------------------------------------


def finding(study: Study, task: str, encoder: str) -> str:
    """One paragraph on "decision layer + CIAO": against its own head, and against the best baseline of its size.

    It calls a difference one only where the paired t-test does, after Holm's correction, and says that it cannot tell
    where the seeds cannot.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> study = example_study()
        >>> finding(study, TASK, ENCODER).split(".")[0]
        'With the encoder frozen, “decision layer + CIAO” reaches 85'
    """
    results, metric = study.results(task, encoder), study.metric(task, encoder)
    if CIAO not in results:
        return f"“{CIAO}” has no training on this task with this encoder yet, so nothing can be compared with it."
    mine = results[CIAO]
    name = score_name(metric)
    text = [
        f"With the encoder frozen, “{CIAO}” reaches {spread(mine.summary(), metric)} {_unit(metric)}{name} "
        f"{_over(mine)}."
    ]
    comparisons = study.comparisons(task, encoder, COMPARED)
    against = {comparison.other: comparison for comparison in comparisons}
    baselines = study.baselines(task, encoder)
    if "decision layer" in against:
        text.append(f"Against the same head without it: {_gap(against['decision layer'])}.")
    best = baselines[0].other if baselines else None
    if best is None:
        text.append("No baseline with as many trained parameters was run: how it stands among them is open.")
    elif best == "decision layer":
        text.append(f"That head is the best of the baselines that train no more parameters. {_verdict(baselines)}")
    else:
        baseline = results[best]
        text.append(
            f"The best baseline that trains no more parameters ({baseline.trained:,} against {mine.trained:,}) is "
            f"“{best}” with {spread(baseline.summary(), metric)}: {_gap(against[best])}. {_verdict(baselines)}"
        )
    for further in study.metrics(task, encoder)[1:]:
        if best is None or further != "balanced_accuracy":
            continue
        other = {against.other: against for against in study.comparisons(task, encoder, COMPARED, further)}
        if best in other:
            text.append(f"In {score_name(further)}, against the same baseline: {_gap(other[best])}.")
    error = sampling_error(mine)
    if error is not None:
        averaged = mine.scored != mine.records[-1].samples.get("test")
        what = "clips or other groups of test faces" if averaged else "test faces"
        text.append(
            f"All this is about seeds, on these {mine.scored:,} {what}; another sample of as many would move an "
            f"accuracy by about ±{number(error, metric)} points (one standard error)."
        )
    return " ".join(text)


def _over(result: Result) -> str:
    n = len(result.seeds)
    return f"over {n} seeds" if n > 1 else "with one seed"


def _unit(metric: str) -> str:
    return "% " if in_percent(metric) else ""


def _gap(against: Against) -> str:
    """`+1.5 points (+1.0 to +2.1, p < 0.001)` and what that means."""
    difference, metric = against.comparison.difference, against.metric
    points = " points" if in_percent(metric) else ""
    size = f"{number(difference.mean, metric, signed=True)}{points}"
    if against.corrected is None:
        return f"{size} with a single seed, which says nothing about chance"
    p = p_value(against.corrected)
    p = p if p.startswith("<") else f"= {p}"
    text = f"{size} (95 % interval {interval(difference, metric, signed=True)}, p {p} after Holm, {difference.n} pairs)"
    if against.corrected >= LEVEL:
        return f"{text}, no difference that these seeds can tell from chance"
    return text + (", CIAO is ahead" if difference.mean > 0 else ", CIAO is behind")


def _verdict(baselines: list[Against]) -> str:
    """Whether CIAO comes within one point of the best of its baselines."""
    best = baselines[0]
    margin = "one point" if in_percent(best.metric) else f"{MARGIN:g}"
    inside, p, times = within_margin(best.differences, candidates=len(baselines))
    if p is None:
        return f"Whether it comes within {margin} of it, one seed cannot tell."
    # Without spread a t-test says nothing, see `t_test`.
    test = "paired t-test" if best.comparison.difference.sd else "sign-flip test, as the differences do not vary"
    tested = f"one-sided {test}, p {'' if p < 0.001 else '= '}{p_value(p)}"
    tested += f" after Bonferroni for {times} baselines" if times > 1 else ""
    if inside is None:
        return f"Whether it comes within {margin} of it, these seeds cannot tell ({tested})."
    return f"It {'comes' if inside else 'does not come'} within {margin} of it ({tested})."


# -- what is missing ---------------------------------------------------------------------------------------------------


def missing(study: Study) -> list[str]:
    """What a study lacks, in sentences: planned trainings without a record, and records that do not compare.

    Args:
        study: With its plan, or without one: each method is then expected to have all seeds that there are.

    Example:
        >>> from ciao_peft.study.example import example_records
        >>> missing(Study(example_records()[:-1]))[0]  # without the last training
        'faces, small-face: MLP head has 3 of 4 seeds (3 missing).'
    """
    lines = []
    if study.plan is None:
        seeds = sorted({r.seed for results in study.results_by.values() for o in results.values() for r in o.records})
        expected = [(task, encoder, name) for task, encoder in study.pairs for name in study.results(task, encoder)]
        names = {name for _, _, name in expected}
        for task, encoder in study.pairs:
            absent = [name for name in NETWORKS if name in names - set(study.results(task, encoder))]
            lines += [f"{task}, {encoder}: no training of {'; '.join(absent)}."] if absent else []
    else:
        seeds = sorted(study.plan.seeds)
        expected = []
        for task in study.plan.tasks:
            if not any(pair[0] == task.name for pair in study.results_by):
                lines.append(
                    f"{task.name}: nothing was trained on it. Its files were not there, or the study has not got to it."
                )
                continue
            for encoder in study.plan.encoders:
                expected += [(task.name, encoder.name, method.name) for method in study.plan.methods]
    untrained: dict[tuple[str, str], list[str]] = {}
    for task, encoder, name in expected:
        result = study.results(task, encoder).get(name)
        trained = set(result.seeds) if result else set()
        if not trained:
            untrained.setdefault((task, encoder), []).append(name)
        elif absent := [seed for seed in seeds if seed not in trained]:
            lines.append(
                f"{task}, {encoder}: {name} has {len(trained)} of {len(seeds)} seeds ({_listing(absent)} missing)."
            )
    lines += [f"{task}, {encoder}: no training of {'; '.join(names)}." for (task, encoder), names in untrained.items()]
    if study.aside:
        counts = Counter(record.method for record in study.aside)
        names = "; ".join(f"{count:,} of {name}" for name, count in counts.items())
        lines.append(
            f"Left aside, because they do not fit the plan as it is now: {len(study.aside):,} of "
            f"{len(study.aside) + len(study.records):,} records ({names}). They are of other epochs, settings, rates "
            "or seeds, or of what the plan does not name."
        )
    for (task, encoder), results in study.results_by.items():
        lines += _mixed(task, encoder, results)
    absent = list(dict.fromkeys(row.task for row in TABLE_I if (row.dataset, row.score) not in study.ran))
    if absent:
        lines.append(f"Of the paper's tasks not run here: {'; '.join(absent)}.")
    return lines


def _mixed(task: str, encoder: str, results: dict[str, Result]) -> list[str]:
    """Records that stand in one table though they were not made alike."""
    lines = []
    records = [record for result in results.values() for record in result.records]
    trained = {bool(r.config.get("frames")): set() for r in records}  # on faces, or on clips of them: two ways to count
    for record in records:
        trained[bool(record.config.get("frames"))].add(record.samples.get("train"))
    for what, values in (
        ("weights of the encoder", {record.encoder_revision for record in records}),
        ("numbers of training faces", max(trained.values(), key=len, default=set())),
        ("numbers of test faces or clips", {scored(record) for record in records}),
    ):
        if len(values) > 1:
            lines.append(
                f"{task}, {encoder}: the trainings are of {len(values)} different {what}; they do not compare."
            )
    for name, result in results.items():
        arguments = {str(sorted(record.arguments.items())) for record in result.records}
        epochs = {record.epochs for record in result.records}
        if len(arguments) > 1 or len(epochs) > 1:
            lines.append(f"{task}, {encoder}: {name} was trained with different settings in different seeds.")
    return lines


def _listing(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds[:6])) + (" and more" if len(seeds) > 6 else "")
