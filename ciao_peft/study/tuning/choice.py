"""The choice among candidates, and what is said of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import TrainingError
from ...markdown import markdown_table
from ...metrics import kind_of
from ..plan import Method
from .candidates import head_of, what_trains


@dataclass(frozen=True)
class Tried:
    """A candidate and what it reached.

    Args:
        name: Of the candidate.
        epochs: Of the last rung that it was on.
        scores: By the metric on each held-out part there; none where it could not be trained, or diverged.
        numbers: Of its adapter.
        seconds: Of all its trainings.
        balanced_accuracy: The mean over the parts, for classes.
        problem: Why there are no scores.

    Example:
        >>> tried = Tried("gain, compact", epochs=12, scores=(0.75, 0.85), numbers=50_000, seconds=30.0)
        >>> tried.mean, round(tried.standard_error, 3), tried.megabytes
        (0.8, 0.05, 0.1)
    """

    name: str
    epochs: float
    scores: tuple[float, ...]
    numbers: int
    seconds: float
    balanced_accuracy: float | None = None
    problem: str | None = None

    @property
    def mean(self) -> float:
        """Over the parts; minus infinity without scores."""
        return statistics.fmean(self.scores) if self.scores else -math.inf

    @property
    def standard_error(self) -> float:
        """Of the mean: standard deviation over the parts (n - 1 in the denominator) by the root of their number."""
        return statistics.stdev(self.scores) / math.sqrt(len(self.scores)) if len(self.scores) > 1 else 0.0

    @property
    def megabytes(self) -> float:
        """Of the adapter's weights in float16, in millions of bytes."""
        return 2 * self.numbers / 1e6


@dataclass(frozen=True)
class TuneResult:
    """What `tune` has found.

    Args:
        method: The chosen candidate with all settings of its training, as `best.json` has it.
        chosen: What it reached.
        tried: All candidates, those of the last rung first, the best of a rung first.
        metric: By which they were compared.
        verdict: In words, what was chosen and whether the mask helps.
        folder: With `best.json`, `candidates.md` and `trials/`.
    """

    method: Method
    chosen: Tried
    tried: list[Tried] = field(repr=False)
    metric: str
    verdict: str
    folder: Path


def choose(tried: Sequence[Tried]) -> Tried:
    """The smallest candidate of the last rung within one standard error of the best one (Breiman et al. 1984).

    The standard error is that of the best one's mean. Of equally small ones, the better one.

    Args:
        tried: Of any rung; only those with the most epochs count.

    Raises:
        TrainingError: none has a score.

    Example:
        >>> large = Tried("large", epochs=12, scores=(0.80, 0.84), numbers=2_000_000, seconds=9.0)
        >>> small = Tried("small", epochs=12, scores=(0.80, 0.81), numbers=50_000, seconds=9.0)
        >>> tiny = Tried("tiny", epochs=12, scores=(0.70, 0.72), numbers=9_000, seconds=9.0)
        >>> choose([large, small, tiny]).name
        'small'
    """
    scored = [each for each in tried if each.scores]
    if not scored:
        why = "; ".join(f"{each.name}: {each.problem}" for each in tried[:3])
        raise TrainingError(f"None of {len(tried)} candidates has a score ({why or 'there are none'}).")
    most = max(each.epochs for each in scored)
    last = [each for each in scored if each.epochs == most]
    best = max(last, key=lambda each: each.mean)
    near = [each for each in last if each.mean >= best.mean - best.standard_error]
    return min(near, key=lambda each: (each.numbers, -each.mean))


def verdict_of(tried: Sequence[Tried], methods: Sequence[Method], metric: str, chosen: Tried | None = None) -> str:
    """Whether the mask helps: the best masked candidate against the same head without, and with its last convolution.

    Differences are taken part by part. One counts as a lead where its mean is above its standard error.

    Args:
        tried: Of the last rung.
        methods: Theirs.
        metric: By which they were compared.
        chosen: Whose head is looked at; that of the best masked candidate when left out.

    Example:
        >>> bare = Method(name="bare", config={"inhibition": False})
        >>> tried = [Tried("gain", 12, (0.82, 0.85), 100, 1.0), Tried("bare", 12, (0.80, 0.82), 50, 1.0)]
        >>> print(verdict_of(tried, [Method(name="gain"), bare], "accuracy"))
        The mask helps: gain is ahead of the same head without a mask (+2.50 ± 0.50 points of accuracy).
    """
    by_name = {each.name: each for each in tried if each.scores}
    groups: dict[str, list[Method]] = {"mask": [], "head": [], "last convolution": []}
    for method in methods:
        if method.name in by_name:
            groups[what_trains(method.config)].append(method)
    heads = [head_of(own.config) for own in methods if chosen is not None and own.name == chosen.name]
    with_head = [own for own in groups["mask"] if not heads or head_of(own.config) == heads[0]]
    masked = max(with_head or groups["mask"], key=lambda method: by_name[method.name].mean, default=None)
    if masked is None:
        return "No candidate with a mask came to the end, so nothing is said about the mask."
    found: dict[str, tuple[str, int]] = {}
    for kind, words in (
        ("head", "the same head without a mask"),
        ("last convolution", "the last convolution unfrozen under the same head"),
    ):
        rivals = [by_name[own.name] for own in groups[kind] if head_of(own.config) == head_of(masked.config)]
        if rivals:
            best = max(rivals, key=lambda each: each.mean)
            found[kind] = _compared(by_name[masked.name], best, words, metric)
    if "head" not in found:
        return f"{masked.name} is the best with a mask; its head without one did not come to the end."
    lead = "The mask helps" if found["head"][1] > 0 else "The mask does not help"
    if "last convolution" in found and found["last convolution"][1] < 0:
        lead += ", and the last convolution unfrozen is better"
    return f"{lead}: {masked.name} is {', and '.join(clause for clause, _ in found.values())}."


def _compared(masked: Tried, rival: Tried, words: str, metric: str) -> tuple[str, int]:
    """A clause, and 1 where the masked one is ahead, -1 where it is behind, and 0 where the parts cannot tell."""
    differences = [own - other for own, other in zip(masked.scores, rival.scores, strict=True)]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    sign = 1 if mean > error else -1 if -mean > error else 0
    scale, unit, digits = (100, "points of ", 2) if _in_percent(metric) else (1, "", 3)
    by = f"{scale * mean:+.{digits}f} ± {scale * error:.{digits}f} {unit}{metric.replace('_', ' ')}"
    return f"{('level with', 'ahead of', 'behind')[sign]} {words} ({by})", sign


def _in_percent(metric: str) -> bool:
    score = kind_of(metric)
    return score is not None and (score.lowest, score.highest) == (0.0, 1.0)


def shown(score: float, error: float | None, metric: str) -> str:
    """A score as tables have it: in percent, where it is a share.

    Example:
        >>> shown(0.8123, 0.011, "accuracy"), shown(0.5, None, "concordance")
        ('81.2 ± 1.1', '0.500')
    """
    scale, digits = (100, 1) if _in_percent(metric) else (1, 3)
    return f"{scale * score:.{digits}f}" + ("" if error is None else f" ± {scale * error:.{digits}f}")


def table_of(tried: Sequence[Tried], chosen: Tried | None, metric: str) -> str:
    """All candidates as a Markdown table whose columns stand below one another in a terminal, too.

    Args:
        tried: In the order of the rows.
        chosen: The one that gets a mark.
        metric: By which they were compared.

    Example:
        >>> rows = [Tried("gain", 12, (0.82, 0.85), 50_000, 31.5), Tried("odd", 2, (), 0, 1.0, problem="diverged")]
        >>> print(table_of(rows, rows[0], "accuracy"))
        | candidate       | epochs | accuracy   | numbers | MB   | seconds |
        | --- | ---: | ---: | ---: | ---: | ---: |
        | **gain** chosen |     12 | 83.5 ± 1.5 |  50,000 | 0.10 |    31.5 |
        | odd             |      2 |   diverged |         |      |     1.0 |
    """
    second = metric != "balanced_accuracy" and any(each.balanced_accuracy is not None for each in tried)
    head = ["candidate", "epochs", metric.replace("_", " "), *(["balanced accuracy"] * second)]
    head += ["numbers", "MB", "seconds"]
    rows: list[list[str]] = []
    for each in tried:
        name = f"**{each.name}** chosen" if each is chosen else each.name
        score = shown(each.mean, each.standard_error, metric) if each.scores else each.problem or ""
        row = [name, f"{each.epochs:g}", score]
        if second:
            balanced = each.balanced_accuracy
            row.append("" if balanced is None else shown(balanced, None, "balanced_accuracy"))
        size = [f"{each.numbers:,}", f"{each.megabytes:.2f}"] if each.scores else ["", ""]
        rows.append([*row, *size, f"{each.seconds:.1f}"])
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    padded = [
        [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))] for cells in rows
    ]
    return markdown_table([c.ljust(w) for c, w in zip(head, widths, strict=True)], padded, "l" + "r" * (len(head) - 1))
