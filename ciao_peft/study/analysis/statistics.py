"""Means over seeds and what they can tell apart: intervals, paired tests, Holm's correction, with SciPy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError, MissingExtraError, quoted

RESAMPLES = 10_000
EXACT_SIGNS = 20  # 2**20 sums of flipped differences still fit in 8 MB


@dataclass(frozen=True)
class Summary:
    """One score over seeds.

    Args:
        n: Seeds.
        mean: Their mean.
        sd: Standard deviation with n - 1, `None` for one seed: it says nothing about the spread.
        interval: 95 % bootstrap interval of the mean, `None` for one seed.

    Example:
        >>> summarize([0.5, 0.5, 0.5])
        Summary(n=3, mean=0.5, sd=0.0, interval=(0.5, 0.5))
    """

    n: int
    mean: float
    sd: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Comparison:
    """Two methods paired by seed, the first minus the second.

    Args:
        difference: Mean, sd and interval of the n differences.
        t: p of the paired t-test, `None` for one pair; that of `sign_flip` where the n differences do not vary, see
            `t_test`.
        wilcoxon: p of the exact signed-rank test.
        sign_flip: p of the sign-flip permutation test.
        effect_size: Cohen's d of the differences (mean over sd), `None` for one pair; infinite where
            all n are the same and not zero.

    Example:
        >>> compare([0.8, 0.9], [0.7, 0.8]).effect_size  # both differences are the same
        inf
    """

    difference: Summary
    t: float | None
    wilcoxon: float
    sign_flip: float
    effect_size: float | None


def summarize(values: Any, *, confidence: float = 0.95, seed: int = 0) -> Summary:
    """Mean, standard deviation and bootstrap interval of one score over seeds.

    Args:
        values: `(n,)`, finite, n at least 1.
        confidence: Of the interval, above 0 and below 1.
        seed: Of the bootstrap.

    Raises:
        InputError: nothing to summarize, or NaN.
        MissingExtraError: SciPy is not installed; one value alone does not need it.

    Example:
        >>> summary = summarize([0.80, 0.82, 0.81])
        >>> f"{summary.mean:.2f} ± {summary.sd:.2f}, {summary.interval[0]:.2f} to {summary.interval[1]:.2f}"
        '0.81 ± 0.01, 0.80 to 0.82'
        >>> summarize([0.8]).interval is None
        True
    """
    sample = _sample(values)
    if len(sample) == 1:
        return Summary(1, float(sample[0]), None, None)
    interval = bootstrap_interval(sample, confidence=confidence, seed=seed)
    sd = 0.0 if _constant(sample) else float(sample.std(ddof=1))
    return Summary(len(sample), float(sample.mean()), sd, interval)


def compare(one: Any, other: Any, *, confidence: float = 0.95, seed: int = 0) -> Comparison:
    """Difference of two methods that were trained with the same seeds, and three tests that it is zero.

    Args:
        one: `(n,)`, scores by seed.
        other: `(n,)`, scores of the same seeds in the same order.

    Raises:
        InputError: lengths that differ, nothing to compare, or NaN.

    Example:
        >>> result = compare([0.81, 0.83, 0.82, 0.84], [0.80, 0.81, 0.79, 0.80])
        >>> f"{result.difference.mean:+.3f}, p = {result.t:.3f}, {result.wilcoxon:.3f}, {result.sign_flip:.3f}"
        '+0.025, p = 0.030, 0.125, 0.125'
    """
    a, b = _sample(one), _sample(other)
    if len(a) != len(b):
        raise InputError(f"A paired comparison needs one score of each method per seed; got {len(a)} and {len(b)}.")
    # Scores are fractions: what is left of 0.3 - 0.2 - 0.1 is no difference.
    differences = np.where(np.isclose(a, b, rtol=1e-12, atol=1e-15), 0.0, a - b)
    return Comparison(
        difference=summarize(differences, confidence=confidence, seed=seed),
        t=t_test(differences) if len(differences) > 1 else None,
        wilcoxon=wilcoxon_test(differences),
        sign_flip=sign_flip_test(differences, seed=seed),
        effect_size=effect_size(differences) if len(differences) > 1 else None,
    )


# -- intervals ---------------------------------------------------------------------------------------------------------


def bootstrap_interval(
    values: Any, *, confidence: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Bias-corrected and accelerated (BCa) bootstrap interval of the mean (Efron 1987).

    With ten seeds it is narrower than it should be: about a tenth too often the true mean lies outside. What is claimed
    of a difference therefore rests on the tests, not on whether this interval holds zero.

    Args:
        values: `(n,)`, finite, n at least 2.
        confidence: Above 0 and below 1.
        resamples: How many times n values are drawn again.
        seed: Of the drawing.

    Returns:
        Lower and upper bound; both the value itself where all are the same.

    Raises:
        InputError: fewer than two values, NaN, or a confidence that is none.

    Example:
        >>> low, high = bootstrap_interval([1.0, 2.0, 3.0, 4.0])
        >>> round(low, 2), round(high, 2)
        (1.5, 3.5)
    """
    sample = _sample(values, at_least=2)
    if not 0 < confidence < 1:
        raise InputError(f"`confidence` must lie between 0 and 1; got {quoted(confidence)}.")
    if _constant(sample):
        return float(sample[0]), float(sample[0])
    drawing = {"n_resamples": resamples, "rng": np.random.default_rng(seed)}
    result = _scipy_stats().bootstrap((sample,), np.mean, confidence_level=confidence, method="BCa", **drawing)
    low, high = result.confidence_interval
    return float(low), float(high)


# -- tests of n paired differences against zero ------------------------------------------------------------------------


def t_test(differences: Any, *, above: float | None = None) -> float:
    """p of the paired t-test: that the mean of the differences is zero, or no higher than `above`.

    Args:
        differences: `(n,)`, n at least 2.
        above: When given, one-sided: a small p says that the mean lies above this value.

    Returns:
        p in [0, 1]. Where all differences are the same a t-test has no spread to go by, and would be certain after two
        seeds: accuracies are counts, so that this happens. p is then that of the exact sign flips, as `sign_flip_test`
        has it: `2 / 2**n`, half of it one-sided, and 1 where they are what is tested against or, one-sided, below it.

    Raises:
        InputError: fewer than two differences, or NaN.

    Example:
        >>> round(t_test([0.01, 0.02, 0.03, 0.04]), 4)
        0.0305
        >>> round(t_test([0.01, 0.02, 0.03, 0.04], above=0.0), 4)
        0.0152
        >>> t_test([0.02, 0.02])  # no spread: 2 of 4 choices of signs
        0.5
    """
    original = _sample(differences, at_least=2)
    sample, n = original - (above or 0.0), len(original)
    if _constant(original) or _constant(
        sample
    ):  # both: what rounding left of a difference of zero varies, next to zero
        mean = 0.0 if math.isclose(sample[0], 0, abs_tol=1e-15) else float(sample[0])
        if above is None:
            return 1.0 if mean == 0 else 2 * 0.5**n
        return 0.5**n if mean > 0 else 1.0
    alternative = "two-sided" if above is None else "greater"
    return float(_scipy_stats().ttest_1samp(sample, 0.0, alternative=alternative).pvalue)


def wilcoxon_test(differences: Any) -> float:
    """Exact two-sided p of Wilcoxon's signed-rank test; differences of zero are left out.

    With n differences it cannot get below `2 / 2**n`: five seeds can never reach 0.05. Where some are of the same size,
    p is that of `sign_flip_test` on their ranks, which is exact to 20 differences.

    Args:
        differences: `(n,)`.

    Raises:
        InputError: no difference, or NaN.

    Example:
        >>> wilcoxon_test([1.0, 2.0, 3.0, 4.0, 5.0])  # 2 of 32 choices of signs are as extreme
        0.0625
        >>> wilcoxon_test([0.0, 0.0])
        1.0
    """
    sample = _sample(differences)
    sample = sample[sample != 0]
    if not len(sample):
        return 1.0
    sizes = np.abs(sample)
    if len(np.unique(sizes)) < len(sizes):  # SciPy's exact distribution knows no ties
        return sign_flip_test(np.copysign(_scipy_stats().rankdata(sizes), sample))
    return float(_scipy_stats().wilcoxon(sample, method="exact").pvalue)


def sign_flip_test(differences: Any, *, resamples: int = 100_000, seed: int = 0) -> float:
    """Two-sided p of the permutation test that gives each difference either sign, for their mean.

    Exact to 20 differences; beyond, of `resamples` random choices of signs, the observed one counted among them.

    Args:
        differences: `(n,)`.
        resamples: Choices of signs beyond 20 differences.
        seed: Of those choices.

    Raises:
        InputError: no difference, or NaN.

    Example:
        >>> sign_flip_test([1.0, 2.0, 3.0])  # 2 of 8 choices of signs
        0.25
    """
    sample = _sample(differences)
    if len(sample) <= EXACT_SIGNS:  # as scipy.stats.permutation_test does, which takes minutes for a study of 20 seeds
        sums, extra = np.zeros(1), 0
        for value in sample:
            sums = np.concatenate([sums + value, sums - value])
    else:
        flips = np.random.default_rng(seed).integers(0, 2, (resamples, len(sample)), dtype=np.int8)
        sums, extra = sample.sum() - 2 * (flips @ sample), 1
    observed = abs(sample.sum()) - 1e-12 * np.abs(sample).sum()  # sums of the same numbers in another order
    return float(((np.abs(sums) >= observed).sum() + extra) / (len(sums) + extra))


def effect_size(differences: Any) -> float:
    """Cohen's d of paired differences: their mean over their standard deviation; 0 where all are zero.

    Example:
        >>> effect_size([1.0, 2.0, 3.0])
        2.0
    """
    sample = _sample(differences, at_least=2)
    if _constant(sample):
        return 0.0 if sample[0] == 0 else math.copysign(math.inf, sample[0])
    return float(sample.mean() / sample.std(ddof=1))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm 1979): all below 0.05 hold together with 95 % certainty.

    Args:
        p_values: In any order, each in [0, 1]; may be none.

    Returns:
        In the same order; never below the value given.

    Raises:
        InputError: a p-value out of range, or NaN.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    uncorrected = np.asarray(p_values, dtype=np.float64)
    if uncorrected.ndim != 1 or not bool(((uncorrected >= 0) & (uncorrected <= 1)).all()):
        raise InputError(f"p-values are a list of numbers from 0 to 1; got {quoted(p_values)}.")
    order = np.argsort(uncorrected, kind="stable")
    stepped = np.maximum.accumulate(uncorrected[order] * np.arange(len(uncorrected), 0, -1))
    corrected = np.empty_like(uncorrected)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(p) for p in corrected]


# -- within ------------------------------------------------------------------------------------------------------------


def _sample(values: Any, at_least: int = 1) -> np.ndarray:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < at_least:
        needed = "a value" if at_least == 1 else f"{at_least} values"
        raise InputError(f"There must be {needed} or more, in one row; got an array of shape {sample.shape}.")
    if not np.isfinite(sample).all():
        raise InputError("A score is NaN or infinite: a mean of it would say nothing. Did a training diverge?")
    return sample


def _constant(sample: np.ndarray) -> bool:
    """All the same, but for the last bits of a float."""
    return bool(np.ptp(sample) <= 1e-12 * np.abs(sample).max())


def _scipy_stats() -> Any:
    try:
        from scipy import stats
    except ModuleNotFoundError:
        raise MissingExtraError("SciPy", "The statistics of a study", "study") from None
    return stats
