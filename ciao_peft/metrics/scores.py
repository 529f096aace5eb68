"""Scores as plain functions of predictions and labels: arrays, tensors or lists go in, numbers come out."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._shapes import Bool, Float, Int
from ..errors import InputError

__all__ = [
    "accuracy",
    "balanced_accuracy",
    "calibration_error",
    "concordance",
    "confusion_matrix",
    "f1_per_label",
    "macro_f1",
    "rmse",
]


def accuracy(predictions: Any, labels: Any) -> float:
    """Share of the samples whose predicted class is the true one.

    Args:
        predictions: `(B,)` class ids, whole numbers from 0.
        labels: `(B,)` class ids; or `(B, K)` distributions over the classes, of which the most voted class counts.

    Returns:
        From 0 to 1; higher is better.

    Raises:
        InputError: no samples, unequal lengths, or values that are no class ids.

    Example:
        >>> accuracy([0, 1, 1, 2], [0, 1, 2, 2])
        0.75
    """
    predicted, true = _classes(predictions, labels)
    return float((predicted == true).mean())


def balanced_accuracy(predictions: Any, labels: Any) -> float:
    r"""Mean over the classes of the share of their samples that was predicted as that class.

    $$\frac{1}{K} \sum_{k=1}^{K} \frac{n_{kk}}{n_k}$$

    `n_k` is the number of samples of class k and `n_kk` how many of them were predicted as k. `K` counts the classes
    that have a sample; others have no share.

    Args:
        predictions: `(B,)` class ids, whole numbers from 0.
        labels: `(B,)` class ids, or `(B, K)` distributions.

    Returns:
        From 0 to 1; higher is better. Always guessing one of K classes gives 1 / K.

    Raises:
        InputError: no samples, unequal lengths, or values that are no class ids.

    Example:
        >>> balanced_accuracy([0, 0, 0, 0], [0, 0, 0, 1])  # accuracy would be 0.75
        0.5
    """
    predicted, true = _classes(predictions, labels)
    return float(np.mean([(predicted[true == class_id] == class_id).mean() for class_id in np.unique(true)]))


def confusion_matrix(
    predictions: Any, labels: Any, num_labels: int | None = None
) -> Int[np.ndarray, "classes classes"]:
    """Counts how often each class was predicted as each: row = label, column = prediction.

    Args:
        predictions: `(B,)` class ids, whole numbers from 0.
        labels: `(B,)` class ids, or `(B, K)` distributions.
        num_labels: Number of rows and columns; one more than the largest id when left out.

    Returns:
        `(K, K)`, int64; the sum is B.

    Raises:
        InputError: no samples, unequal lengths, values that are no class ids, or an id of `num_labels` or more.

    Example:
        >>> confusion_matrix([0, 1, 1], [0, 1, 0]).tolist()
        [[1, 1], [0, 1]]
    """
    predicted, true = _classes(predictions, labels)
    size = int(max(predicted.max(), true.max())) + 1
    if num_labels is not None:
        if size > num_labels:
            raise InputError(
                f"Class {size - 1} occurs, but there are only {num_labels} classes: 0 to {num_labels - 1}."
            )
        size = num_labels
    return np.bincount(true * size + predicted, minlength=size * size).reshape(size, size)


def f1_per_label(predictions: Any, labels: Any, num_labels: int | None = None) -> Float[np.ndarray, " classes"]:
    r"""Harmonic mean of precision and recall, for each class or label on its own.

    $$F_1 = \frac{2 TP}{2 TP + FP + FN}$$

    TP counts the samples of a class that were predicted as it, FP the others that were predicted as it, and FN its
    samples that were not. A class that neither occurs nor is predicted has 0.

    Args:
        predictions: `(B,)` class ids, or `(B, L)` of 0 and 1 for several labels at once.
        labels: Like the predictions; for classes also `(B, K)` distributions.
        num_labels: Number of classes; one more than the largest id when left out. Not needed for `(B, L)`.

    Returns:
        `(K,)` or `(L,)`, float64, from 0 to 1; higher is better.

    Raises:
        InputError: no samples, shapes that do not fit, or values that are neither class ids nor 0 and 1.

    Example:
        >>> f1_per_label([[1, 0], [1, 1]], [[1, 0], [0, 1]]).round(3).tolist()
        [0.667, 1.0]
    """
    if np.ndim(as_array(predictions)) == 2:
        predicted, true = _binary(predictions, labels)
        hits, num_predicted, num_true = (predicted & true).sum(axis=0), predicted.sum(axis=0), true.sum(axis=0)
    else:
        matrix = confusion_matrix(predictions, labels, num_labels)
        hits, num_predicted, num_true = np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)
    return 2 * hits / np.maximum(num_predicted + num_true, 1)


def calibration_error(probabilities: Any, labels: Any, num_bins: int = 15) -> float:
    r"""Expected calibration error: how far confidence and accuracy lie apart (Guo et al. 2017, Eq. 3).

    $$\sum_b \frac{n_b}{N} |acc_b - conf_b|$$

    Confidence is the probability of the likeliest class; b are `num_bins` bins of equal width from 0 to 1.

    Args:
        probabilities: `(B, K)`, from 0 to 1.
        labels: `(B,)` class ids, or `(B, K)` distributions, which count as their most voted class.
        num_bins: 1 or more.

    Returns:
        From 0 to 1; lower is better.

    Raises:
        InputError: no samples, shapes that do not fit, or numbers that are no probabilities.

    Example:
        >>> answers = [[0.9, 0.1], [0.9, 0.1], [0.2, 0.8]]
        >>> round(calibration_error(answers, [0, 1, 1]), 4)  # 2/3 |1/2 - 0.9| + 1/3 |1 - 0.8|
        0.3333
    """
    given = as_array(probabilities)
    if given.ndim != 2 or not given.size or not ((given >= 0) & (given <= 1)).all():
        raise InputError(f"Probabilities are (B, K), from 0 to 1, of one sample or more; got {given.shape}.")
    predicted, true = _classes(given.argmax(axis=1), labels)
    confidence = given.max(axis=1).astype(np.float64)
    bins = np.minimum((confidence * num_bins).astype(np.int64), num_bins - 1)
    gaps = np.bincount(bins, weights=(predicted == true) - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(given))


def macro_f1(predictions: Any, labels: Any) -> float:
    """Mean of `f1_per_label`: over all labels for `(B, L)`, over the classes that occur or are predicted for `(B,)`.

    Args:
        predictions: `(B,)` class ids, or `(B, L)` of 0 and 1.
        labels: Like the predictions; for classes also `(B, K)` distributions.

    Returns:
        From 0 to 1; higher is better.

    Raises:
        InputError: no samples, shapes that do not fit, or values that are neither class ids nor 0 and 1.

    Example:
        >>> round(macro_f1([0, 0, 2], [0, 2, 2]), 4)  # class 1 neither occurs nor is predicted
        0.6667
    """
    scores = f1_per_label(predictions, labels)
    if np.ndim(as_array(predictions)) == 2:
        return float(scores.mean())
    predicted, true = _classes(predictions, labels)
    return float(scores[np.union1d(predicted, true)].mean())


def concordance(predictions: Any, labels: Any) -> Float[np.ndarray, " values"] | float:
    r"""Lin's concordance correlation coefficient: 1 on the diagonal, 0 for no relation, -1 for the opposite.

    $$\rho = \frac{2 s_{xy}}{s_x^2 + s_y^2 + (\bar x - \bar y)^2}$$

    `x` are the predictions and `y` the labels. Variances `s^2` and covariance `s_xy` divide by the number of samples,
    as Lin defines them; libraries that divide by one less give another value for few samples. Predictions and labels
    that are constant and equal agree wholly, so that 0/0 counts as 1, as in `ciao_peft.losses.concordance_loss`.

    Args:
        predictions: `(B,)` or `(B, V)`, numbers.
        labels: Numbers in the same shape.

    Returns:
        From -1 to 1, higher is better: a float for `(B,)`, else `(V,)` in float64.

    Raises:
        InputError: no samples, shapes that do not fit, or values that are not finite.

    Example:
        >>> concordance([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
        1.0
        >>> round(concordance([0.0, 1.0], [1.0, 2.0]), 3)  # one off: 2 * 0.25 / (0.25 + 0.25 + 1)
        0.333
    """
    predicted, true = _values(predictions, labels)
    # Counted from the first sample: the mean of equal values is not always that value, that of zeros is.
    x, y = predicted - predicted[0], true - true[0]
    covariance = ((x - x.mean(axis=0)) * (y - y.mean(axis=0))).mean(axis=0)
    shift = predicted[0] - true[0] + x.mean(axis=0) - y.mean(axis=0)
    spread = x.var(axis=0) + y.var(axis=0) + shift**2
    score = np.divide(2 * covariance, spread, out=np.ones_like(spread), where=spread > 0)
    return float(score) if score.ndim == 0 else score


def rmse(predictions: Any, labels: Any) -> Float[np.ndarray, " values"] | float:
    r"""Root of the mean squared difference, in the units of the labels.

    $$\sqrt{\frac{1}{B} \sum_{i=1}^{B} (x_i - y_i)^2}$$

    Args:
        predictions: x, `(B,)` or `(B, V)`, numbers.
        labels: y, numbers in the same shape.

    Returns:
        0 or more, lower is better: a float for `(B,)`, else `(V,)` in float64.

    Raises:
        InputError: no samples, shapes that do not fit, or values that are not finite.

    Example:
        >>> rmse([0.0, 0.0], [3.0, -3.0])
        3.0
    """
    predicted, true = _values(predictions, labels)
    score = np.sqrt(((predicted - true) ** 2).mean(axis=0))
    return float(score) if score.ndim == 0 else score


def as_array(values: Any) -> np.ndarray:
    """Predictions or labels of any kind as an array.

    Args:
        values: A tensor on any device and of any dtype, an array, or lists of numbers.

    Returns:
        float64 for a floating-point tensor, whose dtype NumPy may not have; otherwise what `np.asarray` makes of it.

    Example:
        >>> import torch
        >>> as_array(torch.tensor([0.5, 1.0], dtype=torch.bfloat16)).dtype
        dtype('float64')
    """
    if hasattr(values, "detach"):  # a tensor, on any device and of any dtype
        values = values.detach().cpu()
        values = values.double().numpy() if values.is_floating_point() else values.numpy()
    return np.asarray(values)


def _checked(name: str, values: Any) -> np.ndarray:
    array = as_array(values)
    if array.size == 0 or array.ndim == 0:
        raise InputError(f"There is nothing to score: `{name}` has shape {array.shape}.")
    if array.dtype.kind not in "biuf":
        raise InputError(f"`{name}` must be numbers; got {array.dtype}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.argwhere(~np.isfinite(array))[0][0])
        raise InputError(f"`{name}` has a value that is not finite, first in row {row}.")
    return array


def _same_length(predictions: np.ndarray, labels: np.ndarray) -> None:
    if len(predictions) != len(labels):
        raise InputError(f"There are {len(predictions)} predictions but {len(labels)} labels.")


def _classes(predictions: Any, labels: Any) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, " batch"]]:
    predicted, true = _checked("predictions", predictions), _checked("labels", labels)
    _same_length(predicted, true)
    if true.ndim == 2 and true.shape[1] > 1:
        true = true.argmax(axis=1)
    for name, array in (("predictions", predicted), ("labels", true)):
        if array.ndim != 1:
            raise InputError(f"`{name}` must be one class id per sample; got shape {array.shape}.")
        if (array != np.floor(array)).any() or (array < 0).any():
            raise InputError(f"`{name}` must be class ids, whole numbers from 0; got {array[:8].tolist()}.")
    return predicted.astype(np.int64), true.astype(np.int64)


def _binary(predictions: Any, labels: Any) -> tuple[Bool[np.ndarray, "*shape"], Bool[np.ndarray, "*shape"]]:
    predicted, true = _checked("predictions", predictions), _checked("labels", labels)
    if predicted.shape != true.shape:
        raise InputError(f"Predictions have shape {predicted.shape} but labels {true.shape}.")
    for name, array in (("predictions", predicted), ("labels", true)):
        if not np.isin(array, (0, 1)).all():
            raise InputError(
                f"`{name}` must be 0 or 1 for every label; got values from {array.min()} to {array.max()}."
            )
    return predicted.astype(bool), true.astype(bool)


def _values(predictions: Any, labels: Any) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    predicted, true = _checked("predictions", predictions), _checked("labels", labels)
    if predicted.shape != true.shape or predicted.ndim > 2:
        raise InputError(
            f"Predictions have shape {predicted.shape} and labels {true.shape}; "
            "both must be (samples,) or (samples, values)."
        )
    return predicted.astype(np.float64), true.astype(np.float64)
