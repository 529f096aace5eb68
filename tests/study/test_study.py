"""Records in order: which count, what is compared with what, and who is the best baseline. Scores are made up."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ciao_peft.study import Encoder, Plan, Task, methods_named
from ciao_peft.study.analysis.study import CIAO, Study, sampling_error, within_margin
from helpers.studies import HEAD, SIZES, record, records, searched

PAIR = ("faces", "small-face")
MINE = [0.80, 0.82, 0.81]


def test_the_last_record_of_a_training_counts():
    study = Study([record(HEAD, 0, 0.5), record(HEAD, 1, 0.6), record(HEAD, 0, 0.7)])
    assert study.results(*PAIR)[HEAD].scores() == {0: 0.7, 1: 0.6}


def test_seeds_are_in_order_whatever_the_order_of_the_lines():
    study = Study([record(HEAD, seed, seed / 10) for seed in (3, 0, 2)])
    assert study.results(*PAIR)[HEAD].seeds == (0, 2, 3)


def test_networks_come_in_the_papers_order_and_the_rest_by_name():
    names = ["scale and shift", "full", "LoRA r=4", CIAO, "CIAO, additive", HEAD]
    study = Study([record(name, 0, 0.5) for name in names])
    assert list(study.results(*PAIR)) == [HEAD, CIAO, "full", "CIAO, additive", "LoRA r=4", "scale and shift"]


def test_pairs_come_in_the_plans_order():
    tasks = tuple(Task(name=name, dataset="imagefolder") for name in ("b", "a"))
    plan = Plan(tasks=tasks, encoders=(Encoder(name="small-face"),), methods=methods_named([HEAD]), epochs=3)
    lines = [record(HEAD, 0, 0.5, task=task) for task in ("a", "c", "b")]
    assert [task for task, _ in Study(lines).pairs] == ["a", "c", "b"]
    assert [task for task, _ in Study(lines, plan).pairs] == ["b", "a"]  # it does not ask for c


def test_a_search_is_no_result():
    study = Study([*searched(HEAD, {0.001: 0.9}), record(HEAD, 0, 0.5)])
    assert study.results(*PAIR)[HEAD].scores() == {0: 0.5}
    assert Study(searched(HEAD, {0.001: 0.9})).pairs == []


def test_a_search_is_its_mean_score_by_rate_from_low_to_high():
    lines = [
        record(HEAD, seed, score, split="validation", arguments={"learning_rate": rate})
        for seed, rate, score in [(0, 0.01, 0.5), (1, 0.01, 0.7), (0, 0.001, 0.8), (1, 0.001, 0.6), (0, 0.003, 0.1)]
    ]
    found = Study([*lines, record(HEAD, 0, 0.9, arguments={"learning_rate": 0.001})])
    trials = found.searches(*PAIR)[HEAD]
    assert [(trial.rate, trial.n) for trial in trials] == [(0.001, 2), (0.003, 1), (0.01, 2)]
    assert [trial.mean for trial in trials] == pytest.approx([0.7, 0.1, 0.6])
    assert found.results(*PAIR)[HEAD].rate == ("learning_rate", 0.001)


def test_a_rate_that_diverged_is_the_worst_there_is():
    trials = Study(searched(CIAO, {0.01: None, 0.001: 0.5})).searches(*PAIR)[CIAO]
    assert [trial.mean for trial in trials] == [0.5, -math.inf]


def test_differences_are_over_the_seeds_that_both_have():
    study = Study([*records({CIAO: [0.9, 0.8, 0.7]}), record(HEAD, 1, 0.7), record(HEAD, 2, 0.5), record(HEAD, 7, 0)])
    (one,) = study.comparisons(*PAIR, ("network",))
    assert one.differences == pytest.approx((0.1, 0.2))
    assert one.comparison.difference.mean == pytest.approx(0.15)
    assert one.comparison.difference.n == 2
    assert (one.corrected, one.family) == (one.comparison.t, 1)


def test_p_values_are_corrected_within_their_family():
    baselines = {HEAD: [0.79, 0.80, 0.80], "LoRA r=4": [0.7, 0.75, 0.74], "CIAO, additive": [0.81, 0.80, 0.82]}
    study = Study(records({CIAO: MINE, **baselines}))
    found = {one.other: one for one in study.comparisons(*PAIR, ("network", "rival"))}
    alone = {name: stats.ttest_rel(MINE, scores).pvalue for name, scores in baselines.items()}
    assert list(found) == ["LoRA r=4", HEAD]  # from the largest lead down
    smaller, larger = alone["LoRA r=4"], alone[HEAD]
    assert smaller < larger
    assert [one.corrected for one in found.values()] == pytest.approx([2 * smaller, max(2 * smaller, larger)])
    assert {one.family for one in found.values()} == {2}
    (ablation,) = study.comparisons(*PAIR, ("ablation",))
    assert ablation.corrected == pytest.approx(alone["CIAO, additive"])


def test_one_seed_is_compared_and_not_tested():
    study = Study(records({CIAO: MINE, HEAD: [0.7], "LoRA r=4": [0.7, 0.71]}))
    found = {one.other: one for one in study.comparisons(*PAIR, ("network", "rival"))}
    assert found[HEAD].corrected is None
    assert (found["LoRA r=4"].corrected, found["LoRA r=4"].family) == (found["LoRA r=4"].comparison.t, 1)


def test_without_ciao_there_is_nothing_to_compare():
    study = Study(records({HEAD: [0.5, 0.6]}))
    assert study.comparisons(*PAIR, ("network",)) == []
    assert study.best_baseline(*PAIR) is None


def test_the_best_baseline_is_the_one_furthest_ahead_among_those_that_train_no_more():
    study = Study(
        records(
            {
                CIAO: MINE,
                HEAD: [0.79, 0.79, 0.79],
                "LoRA r=4": [0.81, 0.81, 0.81],
                "full": [0.95, 0.95, 0.95],  # trains more
                "last convolution + CIAO": [0.9, 0.9, 0.9],  # has CIAO, and trains more
                "CIAO, additive": [0.99, 0.99, 0.99],  # an ablation
                "a method of unknown size": [0.99, 0.99, 0.99],
            }
        )
    )
    assert study.best_baseline(*PAIR) == "LoRA r=4"


def test_a_method_with_a_mask_is_no_baseline_whatever_its_name():
    """`ciao search` adds to the name of a method, and a method of one's own has any name."""
    shared = {"kind": "network", "parameters": {"trained": 1000}}
    lines = records({CIAO: MINE, HEAD: [0.5, 0.5, 0.5]})
    lines += records({f"{CIAO}, searched": [0.9, 0.9, 0.9]}, config={"hidden_sizes": [64]}, **shared)
    lines += records({"hot": [0.9, 0.9, 0.9]}, config={"temperature": 1.0, "inhibition": True}, **shared)
    assert Study(lines).best_baseline(*PAIR) == HEAD
    lines += records({f"{HEAD}, searched": [0.6, 0.6, 0.6]}, config={"inhibition": False}, **shared)
    lines += records({"no mask + CIAO": [0.4, 0.4, 0.4]}, config={"inhibition": False}, **shared)
    lines += records({"LoRA r=4": [0.7, 0.7, 0.7]}, config={"inhibition": True})  # a baseline reads no such setting
    ranked = [one.other for one in Study(lines).baselines(*PAIR)]
    assert ranked == ["LoRA r=4", f"{HEAD}, searched", HEAD, "no mask + CIAO"]


@pytest.mark.parametrize(("share", "best"), [(1.01, "last convolution"), (1.011, HEAD)])
def test_a_baseline_may_train_one_in_a_hundred_more(share, best):
    lines = records({CIAO: MINE, HEAD: [0.7, 0.7, 0.7]})
    lines += records({"last convolution": [0.9, 0.9, 0.9]}, parameters={"trained": int(share * SIZES[CIAO])})
    assert Study(lines).best_baseline(*PAIR) == best


@pytest.mark.parametrize(
    ("differences", "inside"),
    [
        ([0.001, -0.001, 0.002, 0.0], True),
        ([-0.009, -0.0092, -0.0091], True),  # behind, and surely by less than one point
        ([-0.03, -0.031, -0.029], False),
        ([-0.03, 0.01, 0.0], None),
        ([-0.03, 0.0, -0.02], None),
    ],
)
def test_within_a_point_is_a_one_sided_test_of_the_side_the_mean_is_on(differences, inside):
    found, p, _ = within_margin(differences)
    side = "greater" if np.mean(differences) > -0.01 else "less"
    assert p == pytest.approx(stats.ttest_1samp(differences, -0.01, alternative=side).pvalue, rel=1e-9)
    assert found is inside


def test_one_difference_cannot_tell():
    assert within_margin([0.5]) == (None, None, 1)


@pytest.mark.parametrize(
    ("differences", "inside", "p"),
    [
        ([0.0] * 2, None, 1 / 4),  # one of four choices of signs about the margin is as far above it
        ([0.0] * 5, True, 1 / 32),
        ([-0.02] * 4, None, 1 / 16),
        ([-0.02] * 5, False, 1 / 32),
        ([-0.01] * 5, None, 1.0),
    ],
)
def test_differences_that_never_vary_are_within_a_point_by_their_signs_alone(differences, inside, p):
    assert within_margin(differences) == (inside, p, 1)


def test_being_behind_the_best_of_many_is_corrected_for_their_number():
    """t = 4 with two degrees of freedom: P(T > t) is (1 - t / sqrt(2 + t²)) / 2."""
    spread = math.sqrt(3) / 1000
    behind = [-0.014 - spread, -0.014, -0.014 + spread]  # four standard errors of a thousandth beyond the margin
    p = (1 - 4 / math.sqrt(18)) / 2
    assert within_margin(behind) == (False, pytest.approx(p), 1)
    assert within_margin(behind, candidates=2) == (None, pytest.approx(2 * p), 2)
    assert within_margin(behind, candidates=50) == (None, 1.0, 50)
    inside = [-0.02 - difference for difference in behind]  # as far on the other side of it, where nothing was chosen
    assert within_margin(inside, candidates=50) == (True, pytest.approx(p), 1)


def test_the_best_of_ten_baselines_within_the_margin_is_seldom_called_outside():
    """Each truly 0.99 points ahead, over five seeds of half a point: the best looks further ahead by chance."""
    generator = np.random.default_rng(0)
    wrong = {1: 0, 10: 0}
    for _ in range(400):
        differences = -0.0099 + 0.005 * generator.normal(size=(10, 5))
        best = differences[differences.mean(axis=1).argmin()]
        for candidates in wrong:
            wrong[candidates] += within_margin(best, candidates=candidates).inside is False
    assert wrong[10] <= 0.05 * 400 < wrong[1]


def test_the_sampling_error_of_an_accuracy_is_binomial():
    result = Study(records({HEAD: [0.7, 0.9]})).results(*PAIR)[HEAD]  # mean 0.8 on 400 faces
    assert sampling_error(result) == pytest.approx(math.sqrt(0.8 * 0.2 / 400))
    other = Study(records({HEAD: [0.8]}, metric="macro_f1")).results(*PAIR)[HEAD]
    assert sampling_error(other) is None
    assert sampling_error(Study([record(HEAD, 0, 0.8, samples={})]).results(*PAIR)[HEAD]) is None


def test_frames_whose_answers_are_averaged_are_as_many_tests_as_clips():
    samples = {"train": 100, "test": 400, "scored": 16}
    result = Study([record(HEAD, 0, 0.8, samples=samples)]).results(*PAIR)[HEAD]
    assert sampling_error(result) == pytest.approx(0.1)  # sqrt(0.8 * 0.2 / 16)


def test_confusions_are_summed_over_seeds():
    lines = [record(HEAD, 0, 0.5, confusion=[[1, 2], [3, 4]]), record(HEAD, 1, 0.5, confusion=[[10, 0], [0, 10]])]
    assert Study(lines).results(*PAIR)[HEAD].confusion().tolist() == [[11, 2], [3, 14]]
    assert Study([*lines, record(HEAD, 2, 0.5, confusion=[[1]])]).results(*PAIR)[HEAD].confusion() is None
    assert Study([record(HEAD, 0, 0.5)]).results(*PAIR)[HEAD].confusion() is None


def test_the_scores_beside_the_main_one_come_in_a_fixed_order():
    beside = {"rmse": 0.3, "concordance_valence": 0.4, "concordance_arousal": 0.5, "macro_f1": 0.1, "f1_happy": 0.2}
    study = Study([record(HEAD, 0, 0.45, metric="concordance", scores=beside)])
    expected = ["concordance", "macro_f1", "concordance_arousal", "concordance_valence", "rmse"]
    assert study.metrics(*PAIR) == expected
    assert study.results(*PAIR)[HEAD].summary("balanced_accuracy") is None


def test_seconds_are_the_median_of_the_trainings():
    lines = [record(HEAD, seed, 0.5, seconds=seconds) for seed, seconds in enumerate([1.0, 100.0, 3.0])]
    assert Study(lines).results(*PAIR)[HEAD].seconds == 3.0
