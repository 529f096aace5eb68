import math
import socket

import numpy as np
import pytest
import sklearn.metrics
import torch
import torchmetrics

from ciao_peft.config import CIAOConfig
from ciao_peft.errors import ConfigError, InputError
from ciao_peft.losses import concordance_loss
from ciao_peft.metrics import (
    accuracy,
    balanced_accuracy,
    calibration_error,
    compute_metrics,
    concordance,
    confusion_matrix,
    f1_per_label,
    load_metric,
    macro_f1,
    main_metric,
    rmse,
)

SEEDS = range(5)


def some_classes(seed, count=60, num_labels=5):
    rng = np.random.default_rng(seed)
    true = rng.choice(num_labels, size=count, p=rng.dirichlet(np.ones(num_labels)))
    predicted = np.where(rng.random(count) < 0.6, true, rng.integers(num_labels, size=count))
    return predicted, true


def some_values(seed, shape=(40, 2)):
    rng = np.random.default_rng(seed)
    true = rng.uniform(-1, 1, shape)
    return 0.7 * true + 0.2 * rng.standard_normal(shape) + 0.1, true


@pytest.mark.parametrize("seed", SEEDS)
def test_class_scores_equal_scikit_learn(seed):
    predicted, true = some_classes(seed)
    present = np.union1d(predicted, true)
    assert accuracy(predicted, true) == pytest.approx(sklearn.metrics.accuracy_score(true, predicted))
    expected = np.mean([np.mean(predicted[true == name] == name) for name in set(true.tolist())])
    assert balanced_accuracy(predicted, true) == pytest.approx(expected)
    assert macro_f1(predicted, true) == pytest.approx(
        sklearn.metrics.f1_score(true, predicted, average="macro", labels=present, zero_division=0)
    )
    assert np.array_equal(
        confusion_matrix(predicted, true, 5), sklearn.metrics.confusion_matrix(true, predicted, labels=range(5))
    )
    assert f1_per_label(predicted, true, 5) == pytest.approx(
        sklearn.metrics.f1_score(true, predicted, average=None, labels=range(5), zero_division=0)
    )


def test_balanced_accuracy_equals_scikit_learn_where_every_class_occurs():
    predicted, true = some_classes(3, count=400)
    assert set(true) == set(range(5))
    assert balanced_accuracy(predicted, true) == pytest.approx(sklearn.metrics.balanced_accuracy_score(true, predicted))


@pytest.mark.parametrize("seed", SEEDS)
def test_multi_label_f1_equals_scikit_learn_and_torchmetrics(seed):
    rng = np.random.default_rng(seed)
    true, predicted = (rng.random((50, 8)) < rng.uniform(0.02, 0.6, 8)).astype(int), rng.integers(0, 2, (50, 8))
    assert f1_per_label(predicted, true) == pytest.approx(
        sklearn.metrics.f1_score(true, predicted, average=None, zero_division=0)
    )
    theirs = torchmetrics.classification.MultilabelF1Score(num_labels=8, average="macro")
    assert macro_f1(predicted, true) == pytest.approx(
        theirs(torch.tensor(predicted), torch.tensor(true)).item(), abs=1e-6
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_concordance_equals_its_definition_and_torchmetrics_with_its_other_variance(seed):
    predicted, true = some_values(seed)
    ours = concordance(predicted, true)
    for column in range(2):
        x, y = predicted[:, column].tolist(), true[:, column].tolist()
        n, mx, my = len(x), math.fsum(x) / len(x), math.fsum(y) / len(y)
        covariance = math.fsum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / n
        spread = math.fsum((a - mx) ** 2 + (b - my) ** 2 for a, b in zip(x, y, strict=True)) / n
        assert ours[column] == pytest.approx(2 * covariance / (spread + (mx - my) ** 2), rel=1e-12)
        # torchmetrics divides by n - 1: the same numbers put into its formula give its value.
        other = 2 * covariance * n / (n - 1) / (spread * n / (n - 1) + (mx - my) ** 2)
        theirs = torchmetrics.ConcordanceCorrCoef()(torch.tensor(predicted[:, column]), torch.tensor(true[:, column]))
        assert theirs.item() == pytest.approx(other, abs=1e-6)


def test_with_eight_samples_the_two_variances_tell_concordances_apart():
    x = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) / 7
    y = x + 0.5
    # Population variance of x and y: 63 / 12 / 49; their means are 0.5 apart.
    variance = 63 / 12 / 49
    assert concordance(x, y) == pytest.approx(2 * variance / (2 * variance + 0.25))
    larger = variance * 8 / 7
    theirs = torchmetrics.ConcordanceCorrCoef()(torch.tensor(x), torch.tensor(y)).item()
    assert theirs == pytest.approx(2 * larger / (2 * larger + 0.25), abs=1e-6)
    assert theirs - concordance(x, y) > 0.03


def test_concordance_is_1_minus_1_and_0_where_it_must_be():
    x = np.array([-1.0, 0.0, 1.0])
    assert concordance(x, x) == pytest.approx(1.0)
    assert concordance(x, -x) == pytest.approx(-1.0)
    assert concordance(np.zeros(3), x) == 0.0
    assert concordance(np.ones(3), np.ones(3)) == 1.0  # 0/0 by the formula, and not a sample differs
    assert concordance([0.5], [0.5]) == 1.0
    assert concordance([0.5], [0.4]) == 0.0


@pytest.mark.parametrize("value", [0.1, 0.3, 1 / 3, -0.7, 1e9 / 3])
@pytest.mark.parametrize("count", [3, 7, 10, 1000])
def test_a_constant_agrees_with_itself_and_with_nothing_else_though_its_mean_is_rounded(value, count):
    constant = np.full(count, value)
    assert concordance(constant, constant) == 1.0
    assert concordance(constant, np.full(count, 0.2)) == 0.0
    assert concordance(constant, np.full(count, np.nextafter(value, 1e12))) == 0.0
    assert concordance(constant, np.linspace(-1, 1, count)) == 0.0
    both = np.stack([constant, np.linspace(-1, 1, count)], axis=1)
    assert concordance(both, both) == pytest.approx([1.0, 1.0])
    assert concordance(both, both[::-1]) == pytest.approx([1.0, -1.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [1e-3, 0.1, -0.7, 16_777_217.3, 1e9 / 3])
@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_score_and_loss_of_constants_are_one_answer(value, batch_size, dtype):
    constant = torch.full((batch_size, 1), value, dtype=dtype)
    next_one = torch.nextafter(constant, torch.tensor(torch.inf, dtype=dtype))
    line = torch.linspace(-1, 1, batch_size, dtype=dtype)[:, None]
    for other, agreement in ((constant, 1.0), (next_one, 0.0), (line + 2, 0.0)):
        assert concordance(constant, other).tolist() == [agreement]
        assert concordance_loss(constant, other).item() == 1 - agreement


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_the_loss_is_one_minus_the_score(seed, offset):
    predicted, true = some_values(seed)
    loss = concordance_loss(torch.tensor(predicted + offset), torch.tensor(true + offset))
    assert loss.item() == pytest.approx(1 - concordance(predicted + offset, true + offset).mean(), rel=1e-12)


def test_concordance_falls_with_scale_and_shift_where_correlation_would_not():
    x = np.array([-1.0, 0.0, 1.0])
    assert concordance(0.5 * x, x) == pytest.approx(2 * 0.5 / (0.25 + 1))
    assert concordance(x + 1, x) == pytest.approx(2 * (2 / 3) / (4 / 3 + 1))


@pytest.mark.parametrize("seed", SEEDS)
def test_rmse_equals_scikit_learn(seed):
    predicted, true = some_values(seed)
    expected = sklearn.metrics.root_mean_squared_error(true, predicted, multioutput="raw_values")
    assert rmse(predicted, true) == pytest.approx(expected)


def test_scores_do_not_depend_on_the_order_of_the_samples():
    predicted, true = some_classes(0)
    order = np.random.default_rng(0).permutation(len(true))
    assert macro_f1(predicted[order], true[order]) == macro_f1(predicted, true)
    values, targets = some_values(0)
    assert concordance(values[::-1], targets[::-1]) == pytest.approx(concordance(values, targets))


def test_a_class_without_a_sample_does_not_lower_the_balanced_accuracy():
    assert balanced_accuracy([0, 1, 2], [0, 1, 1]) == pytest.approx((1 + 1 / 2) / 2)


def test_of_a_label_distribution_the_most_voted_class_counts():
    votes = [[0.6, 0.4, 0.0], [0.2, 0.3, 0.5]]
    assert accuracy([0, 1], votes) == 0.5
    assert confusion_matrix([0, 1], votes, 3).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_tensors_of_any_kind_are_as_good_as_arrays():
    predicted, true = some_values(1)
    tensors = torch.tensor(predicted, requires_grad=True), torch.tensor(true)
    assert concordance(*tensors) == pytest.approx(concordance(predicted, true), rel=1e-5)
    halves = torch.tensor([0.0, 1.0], dtype=torch.bfloat16), torch.tensor([1.0, 2.0], dtype=torch.float16)
    assert rmse(*halves) == 1.0
    assert accuracy(torch.tensor([1, 0], dtype=torch.int32), [1, 1]) == 0.5


def classes(num_labels=3):
    return CIAOConfig(problem_type="single_label_classification", num_labels=num_labels)


def affect():
    return CIAOConfig(problem_type="regression", num_labels=2, id2label={0: "arousal", 1: "valence"})


def signals():
    names = {0: "shy", 1: "glad"}
    return CIAOConfig(problem_type="multi_label_classification", num_labels=2, id2label=names)


def test_classes_are_scored_by_accuracy_balanced_accuracy_and_macro_f1():
    scores = compute_metrics([[3, 1, 0], [0, 1, 2], [2, 1, 0]], [0, 2, 1], classes())
    sure = math.e**3 / (math.e**3 + math.e + 1)
    less = math.e**2 / (math.e**2 + math.e + 1)  # once right, once wrong
    assert scores.pop("calibration_error") == pytest.approx((1 - sure + abs(1 - 2 * less)) / 3)
    assert scores == pytest.approx({"accuracy": 2 / 3, "balanced_accuracy": 2 / 3, "macro_f1": (2 / 3 + 1 + 0) / 3})


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_torchmetrics(num_bins):
    generator = torch.Generator().manual_seed(4)
    probabilities = (3 * torch.randn(500, 4, generator=generator)).softmax(dim=1)
    labels = torch.randint(4, (500,), generator=generator)
    other = torchmetrics.functional.classification.multiclass_calibration_error(
        probabilities, labels, num_classes=4, n_bins=num_bins
    )
    assert calibration_error(probabilities, labels, num_bins) == pytest.approx(other.item(), abs=1e-5)


def test_values_are_scored_one_by_one_and_in_the_mean():
    predicted, true = some_values(2)
    scores = compute_metrics(predicted, true, affect())
    assert set(scores) == {
        *("concordance", "rmse", "concordance_arousal", "concordance_valence", "rmse_arousal", "rmse_valence")
    }
    assert scores["concordance"] == pytest.approx(concordance(predicted, true).mean())
    assert scores["concordance_valence"] == pytest.approx(concordance(predicted[:, 1], true[:, 1]))
    assert scores["rmse"] == pytest.approx(np.mean([scores["rmse_arousal"], scores["rmse_valence"]]))


def test_several_labels_are_on_where_their_logit_is_above_zero():
    scores = compute_metrics([[0.1, -3.0], [-0.1, 2.0], [5.0, 0.0]], [[1, 0], [1, 1], [1, 1]], signals())
    assert scores == pytest.approx({"f1_shy": 4 / 5, "f1_glad": 2 / 3, "macro_f1": (4 / 5 + 2 / 3) / 2})


@pytest.mark.parametrize("problem_type", ["single_label_classification", "regression", "multi_label_classification"])
def test_the_main_metric_is_among_the_computed_ones(problem_type):
    config = CIAOConfig(problem_type=problem_type, num_labels=2)
    labels = [0, 1] if problem_type.startswith("single") else [[0.0, 1.0], [1.0, 0.0]]
    assert main_metric(problem_type) in compute_metrics([[0.2, 0.1], [0.4, 0.5]], labels, config)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy([], []), r"nothing to score: `predictions` has shape \(0,\)"),
        (lambda: accuracy([1, 2], [1]), "2 predictions but 1 labels"),
        (lambda: accuracy([0.5], [1]), "`predictions` must be class ids"),
        (lambda: accuracy([0], [-1]), "`labels` must be class ids"),
        (lambda: accuracy(["a"], [1]), "`predictions` must be numbers"),
        (
            lambda: concordance([0.0, math.nan], [0.0, 1.0]),
            "`predictions` has a value that is not finite, first in row 1",
        ),
        (lambda: rmse([[0.0]], [0.0]), r"shape \(1, 1\) and labels \(1,\)"),
        (lambda: confusion_matrix([3], [0], 3), "Class 3 occurs, but there are only 3 classes"),
        (lambda: f1_per_label([[2, 0]], [[1, 0]]), "`predictions` must be 0 or 1"),
        (lambda: compute_metrics([[0.0, 1.0]], [0], classes(3)), r"shape \(samples, 3\); got \(1, 2\)"),
        (lambda: compute_metrics([[math.nan, 1.0]], [0], classes(2)), "NaN or infinity"),
        (lambda: compute_metrics([[0.0, 1.0]], [2], classes(2)), "Label 2 occurs, but there are only 2 classes"),
        (lambda: compute_metrics([[0.0, 1.0]], [[0.0, math.nan]], affect()), "`labels` has a value that is not finite"),
        (lambda: compute_metrics([[0.0, 1.0]], [[0.0, 0.5]], signals()), "`labels` must be 0 or 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a metric asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_evaluate_modules_load_offline_and_give_the_functions_values(offline, tmp_path):
    predicted, true = some_classes(0)
    for function in (accuracy, balanced_accuracy, macro_f1):
        metric = load_metric(function.__name__, cache_dir=str(tmp_path))
        for start in range(0, 60, 20):  # batch by batch
            metric.add_batch(predictions=predicted[start : start + 20], references=true[start : start + 20])
        assert metric.compute() == {function.__name__: pytest.approx(function(predicted, true))}
    values, targets = some_values(0)
    for function in (concordance, rmse):
        metric = load_metric(function.__name__, cache_dir=str(tmp_path), keep_in_memory=True)
        result = metric.compute(predictions=values[:, 0], references=targets[:, 0])
        assert result[function.__name__] == pytest.approx(function(values[:, 0], targets[:, 0]), abs=1e-6)
        metric = load_metric(function.__name__, "multioutput", cache_dir=str(tmp_path))
        result = metric.compute(predictions=values.tolist(), references=targets.tolist())
        assert result[function.__name__] == pytest.approx(function(values, targets), abs=1e-6)


def test_evaluate_modules_score_several_labels_and_matrices(offline, tmp_path):
    metric = load_metric("macro_f1", "multilabel", cache_dir=str(tmp_path))
    assert metric.compute(predictions=[[1, 0], [1, 1]], references=[[1, 0], [0, 1]])["macro_f1"] == pytest.approx(5 / 6)
    matrix = load_metric("confusion_matrix", cache_dir=str(tmp_path))
    assert matrix.compute(predictions=[0, 1], references=[0, 0], num_labels=3) == {
        "confusion_matrix": [[1, 1, 0], [0, 0, 0], [0, 0, 0]]
    }


def test_evaluate_modules_combine(offline, tmp_path):
    import evaluate

    both = evaluate.combine([load_metric(name, cache_dir=str(tmp_path)) for name in ("accuracy", "macro_f1")])
    assert both.compute(predictions=[0, 1], references=[0, 1]) == {"accuracy": 1.0, "macro_f1": 1.0}


def test_unknown_metrics_and_configurations_list_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"no metric 'f1'. Metrics: 'accuracy'.*'rmse'"):
        load_metric("f1")
    with pytest.raises(ConfigError, match=r"no configuration 'va'. There is: 'default', 'multioutput'"):
        load_metric("concordance", "va", cache_dir=str(tmp_path))
