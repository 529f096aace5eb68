"""Which way a score is better, and its bounds, are said by the score and not guessed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ciao_peft import CIAOConfig
from ciao_peft.metrics import SCORES, compute_metrics, higher_is_better, kind_of, load_metric, main_metric
from ciao_peft.trainer import CIAOTrainingArguments
from ciao_peft.trainer.best import Best

PROBLEMS = {
    "single_label_classification": np.arange(6) % 3,
    "regression": np.linspace(-1, 1, 18).reshape(6, 3) ** 3,
    "multi_label_classification": np.eye(3, dtype=int)[[0, 1, 2, 0, 1, 2]],
}


def config_of(problem_type: str, **settings) -> CIAOConfig:
    return CIAOConfig(problem_type=problem_type, num_labels=3, **settings)


@pytest.mark.parametrize("problem_type", PROBLEMS)
def test_everything_that_is_computed_is_a_known_score_within_its_bounds(problem_type):
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 100.0):
        logits = rng.normal(size=(6, 3)) * scale
        for name, value in compute_metrics(logits, PROBLEMS[problem_type], config_of(problem_type)).items():
            kind = kind_of(name)
            assert kind is not None, name
            assert kind.lowest <= value <= kind.highest, name


@pytest.mark.parametrize("problem_type", PROBLEMS)
def test_perfect_predictions_reach_the_best_value_and_worse_ones_are_on_the_worse_side(problem_type):
    labels = PROBLEMS[problem_type]
    truth = np.eye(3)[labels] if problem_type == "single_label_classification" else labels
    perfect = truth if problem_type == "regression" else 100 * (truth - 0.5)  # and sure of it
    scores = compute_metrics(perfect, labels, config_of(problem_type))
    worse = compute_metrics(-perfect, labels, config_of(problem_type))
    for name, value in scores.items():
        assert value == pytest.approx(kind_of(name).best), name
        assert (value > worse[name]) == higher_is_better(name) == (value >= worse[name]), name


@pytest.mark.parametrize("problem_type", PROBLEMS)
def test_the_score_by_which_models_are_compared_grows_with_them(problem_type):
    assert SCORES[main_metric(problem_type)].higher_is_better


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("accuracy", True), ("eval_macro_f1", True), ("concordance_valence", True), ("f1_fear", True)),
        *(("loss", False), ("eval_loss", False), ("rmse", False), ("rmse_arousal", False), ("task_loss", False)),
        *(("f1_loss of control", True), ("concordance_error", True)),  # names of labels say nothing
        *(("mse", False), ("mae_valence", False), ("word_error_rate", False), ("val_loss", False)),  # of anybody's own
        *(("top_2", True), ("auc", True)),
    ],
)
def test_which_way_is_better(name, expected):
    assert higher_is_better(name) is expected
    best = Best(CIAOTrainingArguments(metric_for_best_model=name), "regression")
    key = f"eval_{name.removeprefix('eval_')}"
    assert [best.judge({key: value}, step) for step, value in enumerate((1.0, 2.0))] == [True, expected]


def test_what_the_arguments_say_wins():
    best = Best(CIAOTrainingArguments(metric_for_best_model="top_2", greater_is_better=False), "regression")
    assert [best.judge({"eval_top_2": value}, step) for step, value in enumerate((1.0, 2.0))] == [True, False]


def test_the_registry_cannot_be_changed():
    with pytest.raises(TypeError):
        SCORES["loss"] = SCORES["accuracy"]


def test_metrics_of_evaluate_carry_what_they_are():
    assert load_metric("concordance").higher_is_better is True
    rmse = load_metric("rmse")
    assert (rmse.higher_is_better, rmse.lowest, rmse.highest) == (False, 0.0, math.inf)
    assert load_metric("confusion_matrix").higher_is_better is None
