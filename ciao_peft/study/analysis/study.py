"""The records of a study in order: results by task, encoder and method, and paired comparisons."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from ...errors import RecordError
from ..matching import fits
from ..paper import SCHEMES, WITH_CIAO
from ..plan import RATE_NAMES, Plan
from ..presets import TASKS
from ..records import Record
from .statistics import Comparison, Summary, compare, holm, summarize, t_test

CIAO = "decision layer + CIAO"
"""The method that all others are compared with."""
NETWORKS = tuple(name + mark for name in reversed(SCHEMES) for mark in ("", WITH_CIAO))
"""Names of the six networks of the paper's Table I, in the order of its columns."""
BASELINE = "rival"
"""The kind of a baseline, as records and plans name it."""
COMPARED = ("network", BASELINE)
"""Kinds of methods that are compared with CIAO, unlike its own ablations."""
LEVEL = 0.05
"""The p below which a difference is spoken of."""
MARGIN = 0.01
"""How far behind still counts as within a point: one point of a score that is given in percent."""
AS_MANY = 1.01  # a baseline with as many parameters may train one in a hundred more


@dataclass(frozen=True)
class Result:
    """What one method reached on one task with one encoder.

    Args:
        task, encoder, method: Their names.
        records: Its records of the test split, one per seed, in the order of seeds.
        rate: Name and value of the learning rate that its search chose, where one can be told.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> result = example_study().results(TASK, ENCODER)["decision layer + CIAO"]
        >>> result.scores(), round(result.mean(), 3), result.trained, result.rate
        ({0: 0.8, 1: 0.8, 2: 0.9, 3: 0.9}, 0.85, 4000, ('learning_rate', 0.01))
        >>> result.confusion()
        array([[14,  6],
               [ 0, 20]])
    """

    task: str
    encoder: str
    method: str
    records: tuple[Record, ...]
    rate: tuple[str, float] | None = None

    @property
    def kind(self) -> str:
        """`"network"`, `"ablation"` or `"rival"`, a baseline."""
        return self.records[0].kind

    @property
    def metric(self) -> str:
        """Name of the score that counts."""
        return self.records[-1].metric

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds that have a record, from low to high."""
        return tuple(record.seed for record in self.records)

    @property
    def trained(self) -> int | None:
        """Trained parameters, the same for every seed; `None` where the records do not say."""
        return self.records[-1].parameters.get("trained")

    @property
    def has_mask(self) -> bool:
        """Whether it trains CIAO's mask: adapters of ours do, unless their config says `inhibition: false`."""
        return self.kind != BASELINE and bool(self.records[-1].config.get("inhibition", True))

    @property
    def scored(self) -> int | None:
        """Things scored: test faces, or clips where the answers to their frames are averaged."""
        return scored(self.records[-1])

    @property
    def seconds(self) -> float:
        """Median of the seconds that one training took."""
        return float(np.median([record.seconds for record in self.records]))

    def scores(self, metric: str | None = None) -> dict[int, float]:
        """Scores by seed, of those records that have this score.

        Args:
            metric: Name of the score; the main one when left out.
        """
        metric = metric or self.metric
        return {record.seed: record.scores[metric] for record in self.records if metric in record.scores}

    def summary(self, metric: str | None = None) -> Summary | None:
        """Mean, standard deviation and interval over seeds; `None` where no record has this score.

        Args:
            metric: Name of the score; the main one when left out.
        """
        scores = self.scores(metric)
        return summarize(list(scores.values())) if scores else None

    def mean(self, metric: str | None = None) -> float:
        """Mean over seeds of a score that some record has.

        Args:
            metric: Name of the score; the main one when left out.

        Raises:
            RecordError: no record has this score.
        """
        summary = self.summary(metric)
        if summary is None:
            raise RecordError(f"No record of {self.method!r} has the score {metric or self.metric!r}.")
        return summary.mean

    def confusion(self) -> np.ndarray | None:
        """`(K, K)` counts summed over seeds, row = true class; `None` where no record has them."""
        matrices = [np.asarray(record.confusion) for record in self.records if record.confusion]
        if not matrices or len({matrix.shape for matrix in matrices}) > 1:
            return None
        return np.sum(matrices, axis=0)


@dataclass(frozen=True)
class RateTrial:
    """One rate of a learning-rate search.

    Args:
        name: Which of the learning rates was searched, such as `"mask_learning_rate"`.
        rate: Its value.
        mean: Mean score on held-out people; minus infinity where training diverged.
        n: Trainings behind the mean.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> study = example_study()
        >>> study.searches(TASK, ENCODER)["decision layer"][1]
        RateTrial(name='learning_rate', rate=0.01, mean=0.6, n=1)
    """

    name: str
    rate: float
    mean: float
    n: int


@dataclass(frozen=True)
class Against:
    """`CIAO` minus another method on one score, over the seeds they share.

    Args:
        other: Name of the other method.
        metric: Name of the score.
        comparison: The paired tests.
        differences: One per seed.
        corrected: p of the paired t-test after Holm, among its family; `None` for one seed.
        family: How many p-values were corrected together.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> study = example_study()
        >>> against = study.comparisons(TASK, ENCODER, ["rival"])[0]
        >>> against.other, [round(difference, 1) for difference in against.differences], against.family
        ('MLP head', [0.1, 0.0, 0.1, 0.2], 1)
    """

    other: str
    metric: str
    comparison: Comparison
    differences: tuple[float, ...]
    corrected: float | None  # p of the paired t-test after Holm, among its family
    family: int  # how many p-values were corrected together


@dataclass
class Study:
    """Records in order. The last record of a task, encoder, method, split, seed and rate counts.

    Args:
        records: As `read_records` gives them.
        plan: What was to be trained, where it is known: records that do not fit it, such as those of other epochs, are
            left aside, and one with the rate that the search chose goes before a later one with another. Without it,
            each method is expected to have all seeds that there are.

    Attributes:
        aside: Records that do not fit the plan; `records` are then the others.

    Example:
        >>> from ciao_peft.study import Record
        >>> shared = dict(task="faces", dataset="imagefolder", encoder="small-face", encoder_revision="1", split="test")
        >>> shared |= dict(metric="accuracy", method="decision layer", kind="network")
        >>> study = Study([Record(key=str(n), seed=n, scores={"accuracy": 0.7 + n / 100}, **shared) for n in range(3)])
        >>> study.results("faces", "small-face")["decision layer"].summary().mean
        0.71
    """

    records: Sequence[Record]
    plan: Plan | None = None
    aside: list[Record] = field(init=False)
    results_by: dict[tuple[str, str], dict[str, Result]] = field(init=False)
    searches_by: dict[tuple[str, str], dict[str, list[RateTrial]]] = field(init=False)

    def __post_init__(self) -> None:
        fitting: list[Record] = []
        self.aside = []
        for record in self.records:
            (fitting if self.plan is None or fits(record, self.plan) else self.aside).append(record)
        self.records = fitting
        by_split: dict[str, dict[tuple[str, str, str], list[Record]]] = {"test": {}, "validation": {}}
        for record in self.records:
            by_split[record.split].setdefault((record.task, record.encoder, record.method), []).append(record)

        searches: dict[tuple[str, str], dict[str, list[RateTrial]]] = defaultdict(dict)
        for (task, encoder, method), records in by_split["validation"].items():
            newest = {(r.seed, *(r.arguments.get(name) for name in RATE_NAMES)): r for r in records}
            searches[task, encoder][method] = _trials(list(newest.values()))
        results: dict[tuple[str, str], dict[str, Result]] = defaultdict(dict)
        for (task, encoder, method), records in by_split["test"].items():
            trials = searches[task, encoder].get(method, [])
            if self.plan is not None and trials:  # the grid may have been another in between
                best = max(trials, key=lambda trial: trial.mean)
                records.sort(key=lambda record: record.arguments.get(best.name) == best.rate)
            newest = {record.seed: record for record in records}
            records = [newest[seed] for seed in sorted(newest)]
            rate = _rate(records[-1], trials)
            results[task, encoder][method] = Result(task, encoder, method, tuple(records), rate)
        self.results_by = {key: {name: results[key][name] for name in _ordered(results[key])} for key in results}
        self.searches_by = {key: {name: value[name] for name in _ordered(value)} for key, value in searches.items()}

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Tasks and encoders with a result, in the plan's order or that of the records."""
        if self.plan is None:
            return list(self.results_by)
        planned = [(task.name, encoder.name) for task in self.plan.tasks for encoder in self.plan.encoders]
        return [pair for pair in planned if pair in self.results_by]

    @property
    def ran(self) -> set[tuple[str, str]]:
        """Datasets, each with every score that a result on it has."""
        records = [r for results in self.results_by.values() for result in results.values() for r in result.records]
        return {(record.dataset, score) for record in records for score in record.scores}

    def protocol(self, task: str) -> str | None:
        """How a task's dataset is split; `None` where neither the plan nor the presets know it."""
        from ...data import PROTOCOLS

        tasks = TASKS if self.plan is None else {planned.name: planned for planned in self.plan.tasks}
        if task not in tasks:
            return None
        protocols = PROTOCOLS.get(tasks[task].dataset)
        return tasks[task].options.get("protocol", protocols[0] if protocols else None)

    def results(self, task: str, encoder: str) -> dict[str, Result]:
        """By method: the networks of the paper in its order, then baselines and ablations by name."""
        return self.results_by.get((task, encoder), {})

    def searches(self, task: str, encoder: str) -> dict[str, list[RateTrial]]:
        """By method, from the lowest rate to the highest."""
        return self.searches_by.get((task, encoder), {})

    def metric(self, task: str, encoder: str) -> str:
        """Name of the score that counts for one of `pairs`."""
        return next(iter(self.results(task, encoder).values())).metric

    def metrics(self, task: str, encoder: str) -> list[str]:
        """The main metric, then the other scores that tables show."""
        main = self.metric(task, encoder)
        scores = {name for result in self.results(task, encoder).values() for name in result.records[-1].scores}
        values = sorted(name for name in scores if name.startswith("concordance_"))
        others = ("balanced_accuracy", "macro_f1", "calibration_error", *values, "rmse")
        return [main, *(name for name in others if name in scores and name != main)]

    def comparisons(self, task: str, encoder: str, kinds: Iterable[str], metric: str | None = None) -> list[Against]:
        """CIAO against every method of these kinds, from its largest lead down.

        Args:
            task, encoder: One of `pairs`.
            kinds: Kinds of methods; their p-values are corrected together after Holm.
            metric: Name of the score; the main one when left out.

        Example:
            >>> from ciao_peft.study.example import ENCODER, TASK, example_study
            >>> study = example_study()
            >>> comparisons = study.comparisons(TASK, ENCODER, ["network", "rival"])
            >>> [(against.other, round(against.comparison.difference.mean, 2)) for against in comparisons]
            [('decision layer', 0.2), ('MLP head', 0.1)]
        """
        results, metric = self.results(task, encoder), metric or self.metric(task, encoder)
        comparisons: list[Against] = []
        mine = results[CIAO].scores(metric) if CIAO in results else {}
        for name, result in results.items():
            other = result.scores(metric)
            seeds = sorted(set(mine) & set(other))
            if name == CIAO or result.kind not in set(kinds) or not seeds:
                continue
            a, b = [mine[seed] for seed in seeds], [other[seed] for seed in seeds]
            pairs = tuple(x - y for x, y in zip(a, b, strict=True))
            comparisons.append(Against(name, metric, compare(a, b), pairs, None, 0))
        p_values = {against.other: against.comparison.t for against in comparisons if against.comparison.t is not None}
        corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
        comparisons = [replace(a, corrected=corrected.get(a.other), family=len(corrected)) for a in comparisons]
        return sorted(comparisons, key=lambda against: -against.comparison.difference.mean)

    def baselines(self, task: str, encoder: str) -> list[Against]:
        """CIAO against each method without a mask that trains no more numbers, the one furthest ahead of CIAO first.

        Example:
            >>> from ciao_peft.study.example import ENCODER, TASK, example_study
            >>> study = example_study()
            >>> [against.other for against in study.baselines(TASK, ENCODER)]
            ['MLP head', 'decision layer']
        """
        results = self.results(task, encoder)
        trained = results[CIAO].trained if CIAO in results else None
        if trained is None:
            return []
        limit = AS_MANY * trained
        baselines = []
        for against in reversed(self.comparisons(task, encoder, COMPARED)):
            result = results[against.other]
            if not result.has_mask and result.trained is not None and result.trained <= limit:
                baselines.append(against)
        return baselines

    def best_baseline(self, task: str, encoder: str) -> str | None:
        """The first of `baselines`; `None` where there is none."""
        return next((against.other for against in self.baselines(task, encoder)), None)


class Within(NamedTuple):
    """Whether one method is less than a margin behind another.

    Args:
        inside: `True` (it is), `False` (it is further behind) or `None` (the seeds cannot tell).
        p: Of the one-sided test of the side that the mean is on; `None` for one difference.
        times: What p was multiplied by, because the other method was the best of so many.

    Example:
        >>> within_margin([0.0, 0.001, 0.0]).inside
        True
    """

    inside: bool | None
    p: float | None
    times: int = 1


def within_margin(differences: Iterable[float], margin: float = MARGIN, *, candidates: int = 1) -> Within:
    """Whether the first method is less than `margin` behind the second, as far as the differences over seeds can tell.

    Args:
        differences: Paired by seed, the first minus the second.
        margin: As scores are, a fraction.
        candidates: Of how many methods the second was chosen as the one furthest ahead. The best of many is ahead by
            chance as well: the p of "further behind" is corrected after Bonferroni. That of "less behind" needs no
            correction, as the choice speaks against it.

    Example:
        >>> within_margin([-0.001, 0.002, 0.001]).inside, within_margin([-0.02, -0.021, -0.022]).inside
        (True, False)
        >>> within_margin([-0.02, 0.0, 0.01]).inside is None
        True
        >>> within_margin([-0.02, -0.024, -0.028]).inside, within_margin([-0.02, -0.024, -0.028], candidates=4).inside
        (False, None)
    """
    differences = np.asarray(list(differences))
    if len(differences) < 2:
        return Within(None, None)
    inside = bool(differences.mean() > -margin)
    times = 1 if inside else candidates
    p = min(1.0, times * (t_test(differences, above=-margin) if inside else t_test(-differences, above=margin)))
    return Within(inside if p < LEVEL else None, p, times)


def scored(record: Record) -> int | None:
    """Things that a record's scores are of: clips where the answers to their frames are averaged, else test rows.

    Example:
        >>> from ciao_peft.study.example import example_records
        >>> scored(example_records()[-1])
        10
    """
    return record.samples.get("scored", record.samples.get("test"))


def sampling_error(result: Result) -> float | None:
    r"""Standard error of an accuracy from the number of things scored alone, which no number of seeds makes smaller.

    $$\\sqrt{p (1 - p) / n}$$

    `p` is the mean accuracy over seeds and `n` the number of things scored.

    Args:
        result: Of one method.

    Returns:
        A fraction; `None` for other scores, and where the records do not say how many things were scored.

    Example:
        >>> from ciao_peft.study.example import ENCODER, TASK, example_study
        >>> result = example_study().results(TASK, ENCODER)["decision layer + CIAO"]  # 85 % of 10 faces
        >>> round(sampling_error(result), 3)
        0.113
    """
    if not result.scored or result.metric != "accuracy":
        return None
    accuracy = result.mean()
    return math.sqrt(max(accuracy * (1 - accuracy), 0.0) / result.scored)


def _ordered(results: Mapping[str, object]) -> list[str]:
    return [*(name for name in NETWORKS if name in results), *sorted(name for name in results if name not in NETWORKS)]


def _varying(records: list[Record]) -> str | None:
    """Name of the rate that a search moved."""
    for name in RATE_NAMES:
        if len({record.arguments.get(name) for record in records}) > 1:
            return name
    names = [name for name in RATE_NAMES if name in records[0].arguments]
    return names[0] if len(names) == 1 else None


def _trials(records: list[Record]) -> list[RateTrial]:
    name = _varying(records)
    if name is None:
        return []
    by_rate: dict[float, list[float]] = defaultdict(list)
    for record in records:
        if name in record.arguments:
            by_rate[record.arguments[name]].append(record.score)
    return [RateTrial(name, rate, float(np.mean(scores)), len(scores)) for rate, scores in sorted(by_rate.items())]


def _rate(record: Record, trials: list[RateTrial]) -> tuple[str, float] | None:
    name = trials[0].name if trials else _varying([record])
    return (name, record.arguments[name]) if name is not None and name in record.arguments else None
