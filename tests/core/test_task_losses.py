"""Task losses against their definitions, and the labels that they take."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from ciao_peft.errors import InputError
from ciao_peft.losses import (
    check_labels,
    concordance_loss,
    task_loss,
)
from helpers.fakes import default_config as config

# -- task losses -------------------------------------------------------------------------------------------------------


def concordance_by_definition(x, y):
    """Lin (1989), with population moments."""
    return 2 * np.mean((x - x.mean()) * (y - y.mean())) / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def test_concordance_loss_matches_the_definition():
    predictions, labels = torch.randn(8, 2), torch.randn(8, 2)
    columns = [
        concordance_by_definition(predictions[:, v].double().numpy(), labels[:, v].double().numpy()) for v in (0, 1)
    ]
    assert concordance_loss(predictions, labels).item() == pytest.approx(1 - np.mean(columns), rel=1e-6)


def test_concordance_loss_worked_by_hand():  # covariance 1, variances 1 and 1, means 1 apart: 2 / (1 + 1 + 1)
    loss = concordance_loss(torch.tensor([[-1.0], [1.0]]), torch.tensor([[0.0], [2.0]]))
    assert loss.item() == pytest.approx(1 / 3)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_concordance_depends_on_no_common_scale(scale):
    predictions, labels = torch.randn(8, 2), torch.randn(8, 2)
    expected = concordance_loss(predictions, labels).item()
    assert concordance_loss(scale * predictions, scale * labels).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.7, -1e6])
@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_constant_and_equal_columns_agree_wholly(value, batch_size):
    predictions = torch.full((batch_size, 1), value, requires_grad=True)
    loss = concordance_loss(predictions, torch.full((batch_size, 1), value))
    loss.backward()
    assert loss.item() == 0.0
    assert predictions.grad.isfinite().all()


def test_a_constant_column_that_is_wrong_has_no_concordance():
    predictions = torch.full((4, 1), 0.3, requires_grad=True)
    loss = concordance_loss(predictions, torch.full((4, 1), 0.5))
    loss.backward()
    assert loss.item() == pytest.approx(1.0)
    assert predictions.grad.isfinite().all()


def test_concordance_gradcheck():
    labels = torch.randn(6, 2, dtype=torch.float64)
    predictions = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: concordance_loss(p, labels), (predictions,))


def test_cross_entropy_takes_ids_and_distributions():
    logits = torch.randn(4, 3)
    ids = torch.tensor([0, 2, 1, 2])
    expected = -torch.stack([logits[i].log_softmax(0)[k] for i, k in enumerate(ids)]).mean()
    torch.testing.assert_close(task_loss(logits, ids, config()), expected)
    torch.testing.assert_close(task_loss(logits, nn.functional.one_hot(ids, 3).float(), config()), expected)


def test_regression_is_the_mean_squared_error_or_one_minus_the_concordance():
    logits, labels = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[0.0, 2.0], [0.0, 1.0]])
    assert task_loss(logits, labels, config("regression", 2)).item() == pytest.approx((1 + 0 + 0 + 4) / 4)
    concordance = task_loss(logits, labels, config("regression", 2, regression_loss="ccc"))
    assert concordance == concordance_loss(logits, labels)


def test_multi_label_is_the_mean_binary_cross_entropy():
    logits, labels = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    expected = (math.log(2) + math.log(1 + math.exp(2))) / 2
    assert task_loss(logits, labels, config("multi_label_classification", 2)).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        (config(), torch.tensor([0, 1])),
        (config("regression", 2), torch.rand(2, 2)),
        (config("regression", 2, regression_loss="ccc"), torch.rand(2, 2)),
        (config("multi_label_classification", 2), torch.tensor([[0.0, 1.0], [1.0, 1.0]])),
    ],
    ids=["ids", "mse", "ccc", "multi-label"],
)
def test_task_losses_are_float32_whatever_the_logits_are(problem, labels):
    assert task_loss(torch.randn(2, problem.num_labels).bfloat16(), labels, problem).dtype == torch.float32


# -- labels ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problem", "labels", "dtype"),
    [
        (config(), torch.tensor([0, 2]), torch.int64),
        (config(), torch.tensor([0, 2], dtype=torch.uint8), torch.int64),
        (config(), torch.tensor([[0.5, 0.5, 0.0]]).half(), torch.float32),
        (config(), torch.tensor([[0, 1, 0]]), torch.float32),
        (config("regression", 2), torch.rand(2, 2).double(), torch.float32),
        (config("regression", 2), torch.tensor([[-100.0, 100.0]]), torch.float32),
        (config("multi_label_classification", 2), torch.tensor([[True, False]]), torch.float32),
    ],
    ids=["ids", "uint8", "distribution", "one-hot", "values", "outside", "sets"],
)
def test_labels_come_back_equal_in_the_dtype_of_the_losses(problem, labels, dtype):
    checked = check_labels(labels, problem)
    assert checked.dtype == dtype
    torch.testing.assert_close(checked, labels.to(dtype))


def test_one_regressed_value_may_come_without_its_column():
    assert check_labels(torch.tensor([0.1, 0.2]), config("regression", 1)).shape == (2, 1)


@pytest.mark.parametrize(
    ("problem", "labels", "message"),
    [
        (config(), [0, 1], r"`labels` must be a tensor; got list. Try `torch.as_tensor\(labels\)`."),
        (config(), torch.tensor([0, 3]), r"Class ids run from 0 to 2 \(LABEL_0 to LABEL_2\); got 3 at row 1."),
        (config(), torch.tensor([-1, 3]), r"Class ids run from 0 to 2 .* got -1 at row 0."),
        (
            config(),
            torch.tensor([0.0, 1.0]),
            r"Class ids must be whole numbers; got torch.float32. .*`.long\(\)`",
        ),
        (config(), torch.tensor([True, False]), "Class ids must be whole numbers; got torch.bool"),
        (
            config(),
            torch.zeros(2, 2),
            r"`labels` must be \(B,\) class ids or \(B, 3\) distributions with B = 2",
        ),
        (config(), torch.tensor(1), r"`labels` must be \(B,\) class ids .* got \(\)"),
        (
            config(),
            torch.tensor([0, 1, 2]),
            r"`labels` must be .* with B = 2 for single_label_classification; got \(3,\)",
        ),
        (
            config(),
            torch.tensor([[0.5, 0.5, 0.5], [1, 0, 0]]),
            "A label distribution has .* sum to 1; got .* at row 0",
        ),
        (
            config(),
            torch.tensor([[1.0, 0, 0], [1.5, -0.5, 0]]),
            "A label distribution has values of 0 or more .* at row 1",
        ),
        (config(), torch.full((2, 3), math.nan), r"Labels must be finite; got \[nan, nan, nan\] at row 0"),
        (
            config("regression", 2),
            torch.tensor([[0.0, 0.0], [0.0, math.inf]]),
            r"Labels must be finite; .* at row 1",
        ),
        (
            config("regression", 2),
            torch.rand(2),
            r"`labels` must be \(B, 2\) with B = 2 for regression; got \(2,\)",
        ),
        (
            config("regression", 1),
            torch.rand(2, 2),
            r"`labels` must be \(B, 1\) with B = 2 for regression; got \(2, 2\)",
        ),
        (
            config("multi_label_classification", 2),
            torch.tensor([[0.0, 1.0], [0.5, 1.0]]),
            "are 0 or 1; got .* at row 1",
        ),
        (config("multi_label_classification", 2), torch.tensor([0, 1]), r"`labels` must be \(B, 2\)"),
        (
            config("regression", 2),
            torch.zeros(2, 2, dtype=torch.complex64),
            "Labels must be real numbers; got torch.complex64",
        ),
    ],
)
def test_labels_of_another_problem_are_refused_with_what_was_given(problem, labels, message):
    with pytest.raises(InputError, match=message):
        check_labels(labels, problem, batch_size=2)


def test_a_class_that_is_not_a_number_is_named_with_its_row():
    with pytest.raises(InputError, match=r"Class ids must be whole numbers; got nan at row 1\."):
        check_labels(torch.tensor([0.0, float("nan"), 2.0]), config())
