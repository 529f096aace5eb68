"""Statistics of a study against SciPy, against definitions spelled out, and at their edges."""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
from scipy import stats

from ciao_peft.errors import InputError, MissingExtraError
from ciao_peft.study.analysis.statistics import (
    bootstrap_interval,
    compare,
    effect_size,
    holm,
    sign_flip_test,
    summarize,
    t_test,
    wilcoxon_test,
)


def differences(seed: int, n: int, kind: str) -> np.ndarray:
    """Differences as studies have them: any number, many ties, or ties and zeros."""
    generator = np.random.default_rng(seed)
    sample = generator.normal(0.4, 1.0, n)
    if kind == "ties":
        sample = np.where(np.round(sample) == 0, 1.0, np.round(sample))
    elif kind == "zeros":
        sample = np.round(sample)
        sample[0] = 0.0
    return sample


SAMPLES = [(seed, n, kind) for n in (2, 3, 5, 9) for seed, kind in enumerate(("any", "ties", "zeros"))]


@pytest.mark.parametrize(("seed", "n"), [(0, 2), (1, 3), (2, 5), (3, 10), (4, 31)])
@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_the_interval_is_scipys_bca(seed, n, confidence):
    sample = np.random.default_rng(seed).gamma(2.0, 1.0, n)  # skewed: bias and acceleration matter
    drawn = {"n_resamples": 10_000, "rng": np.random.default_rng(7)}
    theirs = stats.bootstrap((sample,), np.mean, confidence_level=confidence, method="BCa", **drawn)
    assert bootstrap_interval(sample, confidence=confidence, seed=7) == pytest.approx(
        tuple(theirs.confidence_interval), rel=1e-12
    )


def test_an_interval_covers_the_mean_about_as_often_as_it_says():
    samples = np.random.default_rng(0).normal(0.0, 1.0, (300, 20))
    bounds = [bootstrap_interval(sample, resamples=1000) for sample in samples]
    assert 0.88 <= np.mean([low <= 0 <= high for low, high in bounds]) <= 0.98


@pytest.mark.parametrize(("seed", "n", "kind"), SAMPLES)
def test_the_t_test_is_scipys(seed, n, kind):
    sample = differences(seed, n, kind)
    if np.ptp(sample) == 0:
        sample[0] += 1
    assert t_test(sample) == pytest.approx(stats.ttest_1samp(sample, 0).pvalue, rel=1e-9)
    one_sided = stats.ttest_1samp(sample, -0.3, alternative="greater").pvalue
    assert t_test(sample, above=-0.3) == pytest.approx(one_sided, rel=1e-9)


@pytest.mark.parametrize(("seed", "n", "kind"), SAMPLES)
def test_the_signed_rank_test_is_scipys(seed, n, kind):
    sample = differences(seed, n, kind)
    nonzero = sample[sample != 0]
    if len(nonzero) < 2:
        assert wilcoxon_test(sample) == 1.0
        return
    # An exact permutation of the signs: scipy's own exact distribution knows no ties.
    theirs = stats.wilcoxon(nonzero, method=stats.PermutationMethod(n_resamples=math.inf)).pvalue
    assert wilcoxon_test(sample) == pytest.approx(theirs, rel=1e-9)
    if kind == "any":
        assert wilcoxon_test(sample) == pytest.approx(stats.wilcoxon(sample, method="exact").pvalue, rel=1e-9)


@pytest.mark.parametrize(("seed", "n", "kind"), SAMPLES)
def test_the_sign_flip_test_is_scipys_permutation_of_pairs(seed, n, kind):
    sample = differences(seed, n, kind)
    theirs = stats.permutation_test(
        (sample, np.zeros(n)), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples", vectorized=True
    )  # 9,999 resamples are more than 2**9: every choice of signs once
    assert sign_flip_test(sample) == pytest.approx(theirs.pvalue, rel=1e-9)


def test_beyond_twenty_differences_signs_are_drawn():
    sample = differences(0, 40, "any")
    assert sign_flip_test(sample, resamples=20_000) == pytest.approx(t_test(sample), abs=0.01)
    assert sign_flip_test(sample, resamples=2000, seed=1) == sign_flip_test(sample, resamples=2000, seed=1)
    assert sign_flip_test(np.ones(40), resamples=999) == 1 / 1000  # never zero


def test_flipped_sums_that_are_equal_but_for_rounding_count_as_equal():
    assert sign_flip_test([0.1, 0.2, 0.3]) == 2 / 8
    assert sign_flip_test([0.1, 0.2, -0.3]) == 1.0  # the sum is 5e-17


def test_tests_agree_on_data_without_effect():
    """p-values of all three tests are spread evenly where nothing differs."""
    samples = np.random.default_rng(0).normal(0.0, 1.0, (400, 10))
    for test in (t_test, wilcoxon_test, sign_flip_test):
        assert 0.02 <= np.mean([test(sample) < 0.05 for sample in samples]) <= 0.08


def closed_testing(p_values: list[float]) -> list[float]:
    """Holm's values by the closure principle: the largest Bonferroni p of all sets that hold the hypothesis."""
    every = range(len(p_values))
    sets = [set(some) for size in range(1, len(p_values) + 1) for some in itertools.combinations(every, size)]
    bonferroni = [min(1.0, len(some) * min(p_values[i] for i in some)) for some in sets]
    return [max(p for some, p in zip(sets, bonferroni, strict=True) if i in some) for i in every]


@pytest.mark.parametrize("seed", range(4))
def test_holm_is_the_closure_of_bonferroni(seed):
    p_values = (np.random.default_rng(seed).random(6) ** 3).round(2).tolist()  # rounded: some are equal
    assert holm(p_values) == pytest.approx(closed_testing(p_values))


def test_holm_worked_by_hand():
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("p_values", [[1.1], [-0.1], [math.nan], [[0.1]]], ids=str)
def test_what_is_no_p_value_is_refused(p_values):
    with pytest.raises(InputError, match="p-values"):
        holm(p_values)


def test_one_seed_has_a_mean_and_nothing_else():
    one = summarize([0.8])
    assert (one.n, one.mean, one.sd, one.interval) == (1, 0.8, None, None)
    pair = compare([0.8], [0.7])
    assert (pair.t, pair.effect_size) == (None, None)
    assert (pair.wilcoxon, pair.sign_flip) == (1.0, 1.0)


def test_equal_scores_have_no_spread_and_no_difference():
    same = summarize([0.1 + 0.2] * 3 + [0.3])  # 0.30000000000000004 and 0.3
    assert same.sd == 0.0
    assert same.interval == pytest.approx((0.3, 0.3))
    pair = compare([0.1 + 0.2, 0.5], [0.3, 0.5])
    assert pair.difference.mean == 0.0
    assert (pair.t, pair.wilcoxon, pair.sign_flip, pair.effect_size) == (1.0, 1.0, 1.0, 0.0)


def test_where_differences_never_vary_no_test_is_surer_than_the_signs():
    pair = compare([0.62, 0.72], [0.60, 0.70])  # +2.0 points twice: 2 of 4 choices of signs are as extreme
    assert pair.t == pair.wilcoxon == pair.sign_flip == 0.5
    assert pair.effect_size == math.inf
    assert compare([0.6, 0.7, 0.8], [0.5, 0.6, 0.7]).t == 2 / 8
    assert t_test([0.02] * 6) == sign_flip_test([0.02] * 6) == 2 / 64


@pytest.mark.parametrize(("above", "p"), [(0.1, 1.0), (0.05, 1 / 8), (0.2, 1.0), (-0.05, 1 / 8)])
def test_one_sided_without_spread_the_signs_are_flipped_about_what_is_tested_against(above, p):
    """Three times 0.1: one of eight choices of signs is as far above a lower value, all are above a higher one."""
    assert t_test([0.1, 0.1, 0.1], above=above) == p


@pytest.mark.parametrize(
    ("pairs", "none", "lower"),
    [
        ([(0.80, 0.81), (0.11, 0.12), (0.02, 0.03)], -0.01, -0.02),  # what is tested against, but for rounding
        ([(0.1 + 0.2, 0.3), (0.5, 0.5)], 0.01, -0.01),  # no difference, but for rounding
    ],
)
def test_what_rounding_leaves_is_no_spread(pairs, none, lower):
    differences = [one - other for one, other in pairs]
    assert len(set(differences)) > 1
    assert t_test(differences, above=none) == 1.0
    assert t_test(differences, above=lower) == 0.5 ** len(pairs)


def test_swapping_two_methods_turns_the_difference_round():
    a, b = np.random.default_rng(3).random((2, 8))
    one, other = compare(a, b), compare(b, a)
    assert one.difference.mean == -other.difference.mean
    assert one.effect_size == pytest.approx(-other.effect_size)
    for test in ("t", "wilcoxon", "sign_flip"):
        assert getattr(one, test) == pytest.approx(getattr(other, test))


def test_cohens_d_is_t_over_the_root_of_n():
    sample = differences(5, 12, "any")
    assert effect_size(sample) == pytest.approx(stats.ttest_1samp(sample, 0).statistic / math.sqrt(12))


@pytest.mark.parametrize("call", [summarize, wilcoxon_test, sign_flip_test, t_test, bootstrap_interval, effect_size])
@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf, 0.1], [[0.1, 0.2]]], ids=str)
def test_nothing_nan_and_tables_are_refused(call, values):
    with pytest.raises(InputError):
        call(values)


def test_pairs_must_be_pairs():
    with pytest.raises(InputError, match="got 2 and 3"):
        compare([0.1, 0.2], [0.1, 0.2, 0.3])


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_is_a_probability(confidence):
    with pytest.raises(InputError, match="`confidence`"):
        bootstrap_interval([1.0, 2.0], confidence=confidence)


def test_beyond_twenty_ties_the_ranks_get_random_signs():
    sample = np.round(differences(2, 30, "any"), 1)
    assert len(np.unique(np.abs(sample))) < len(sample)
    normal = stats.wilcoxon(sample[sample != 0], method="asymptotic").pvalue
    assert wilcoxon_test(sample) == pytest.approx(normal, abs=0.01)


@pytest.mark.parametrize("call", [t_test, wilcoxon_test, bootstrap_interval, summarize])
def test_without_scipy_the_extra_is_named(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtraError, match=r"needs SciPy: pip install 'ciao_peft\[study\]'"):
        call([0.1, 0.2, 0.4])
