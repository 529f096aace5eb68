"""The scores that fit a problem, all at once, and by name as metrics of `evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError, DivergenceError, InputError, quoted
from ..installed import check_installed
from .scores import accuracy, as_array, balanced_accuracy, calibration_error, concordance, f1_per_label, macro_f1, rmse

if TYPE_CHECKING:
    from ..config import CIAOConfig

__all__ = ["compute_metrics", "load_metric", "main_metric"]

_MAIN = {
    "single_label_classification": "accuracy",
    "regression": "concordance",
    "multi_label_classification": "macro_f1",
}
_MODULES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "BalancedAccuracy",
    "concordance": "Concordance",
    "confusion_matrix": "ConfusionMatrix",
    "macro_f1": "MacroF1",
    "rmse": "RMSE",
}


def main_metric(problem_type: str) -> str:
    """The key of `compute_metrics` by which models are compared; for all of them higher is better.

    Args:
        problem_type: As in `CIAOConfig`.

    Returns:
        `"accuracy"`, `"concordance"` or `"macro_f1"`.

    Raises:
        KeyError: no such problem type.

    Example:
        >>> main_metric("regression")
        'concordance'
    """
    return _MAIN[problem_type]


def compute_metrics(logits: Any, labels: Any, config: CIAOConfig) -> dict[str, float]:
    """All scores that fit the problem, by name. `SCORES` says which way each is better, and its bounds.

    - single-label classification: `accuracy`, `balanced_accuracy`, `macro_f1`, and `calibration_error` of the
      probabilities that the config's `probability_temperature` gives;
    - regression: `concordance_<name>` and `rmse_<name>` of each value, and their means `concordance` and `rmse`;
    - multi-label classification: `f1_<name>` of each label and their mean `macro_f1`; a label is on where its logit is
      above 0, that is where its probability is above one half.

    Args:
        logits: `(B, num_labels)`, what the model returned; a tensor, an array or lists.
        labels: `(B,)` class ids or `(B, K)` distributions; `(B, V)` values; `(B, L)` of 0 and 1.
        config: Config of the adapter; gives `problem_type`, `num_labels` and `id2label`.

    Returns:
        Python floats.

    Raises:
        InputError: shapes that do not fit, no samples, or a label out of range.
        DivergenceError: a logit is NaN or infinite.

    Example:
        >>> from ciao_peft import CIAOConfig
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> compute_metrics([[2.0, 1.0], [0.5, 0.6], [3.0, 0.0]], [0, 1, 1], config)["balanced_accuracy"]
        0.75
    """
    answers, truth = as_array(logits), as_array(labels)
    if answers.ndim != 2 or answers.shape[1] != config.num_labels:
        raise InputError(f"Logits must have the shape (samples, {config.num_labels}); got {answers.shape}.")
    if answers.size and not np.isfinite(answers).all():
        raise DivergenceError("The model's answers hold NaN or infinity: nothing can be scored. Did training diverge?")
    names = [config.id2label[index] for index in range(config.num_labels)]
    if config.problem_type == "single_label_classification":
        if truth.ndim == 1 and truth.size and truth.max() >= config.num_labels:
            raise InputError(f"Label {truth.max()} occurs, but there are only {config.num_labels} classes.")
        predicted = answers.argmax(axis=1) if len(answers) else answers
        return {
            "accuracy": accuracy(predicted, truth),
            "balanced_accuracy": balanced_accuracy(predicted, truth),
            "macro_f1": macro_f1(predicted, truth),
            "calibration_error": calibration_error(_probabilities(answers, config), truth),
        }
    if config.problem_type == "regression":
        truth = truth[:, None] if truth.ndim == 1 else truth
        agreement, error = np.atleast_1d(concordance(answers, truth)), np.atleast_1d(rmse(answers, truth))
        scores = {"concordance": float(agreement.mean()), "rmse": float(error.mean())}
        scores |= {f"concordance_{name}": float(value) for name, value in zip(names, agreement, strict=True)}
        return scores | {f"rmse_{name}": float(value) for name, value in zip(names, error, strict=True)}
    per_label = f1_per_label((answers > 0).astype(np.int64), truth)
    scores = {"macro_f1": float(per_label.mean())}
    return scores | {f"f1_{name}": float(value) for name, value in zip(names, per_label, strict=True)}


def load_metric(name: str, config_name: str | None = None, **settings: Any) -> Any:
    """Makes one of these scores an `evaluate.Metric`; needs no network, unlike `evaluate.load`.

    Besides what every `evaluate.Metric` has, it carries `higher_is_better`, `lowest` and `highest`, as in `SCORES`;
    None where a result, such as a confusion matrix, is no score.

    Args:
        name: `"accuracy"`, `"balanced_accuracy"`, `"macro_f1"`, `"confusion_matrix"`, `"concordance"` or `"rmse"`.
        config_name: `"multilabel"` for `macro_f1` of several labels at once, `"multioutput"` for `concordance` and
            `rmse` of several values per sample.
        settings: Arguments of `evaluate.Metric`, such as `keep_in_memory`, `num_process` and `experiment_id`.

    Returns:
        The metric: `add_batch` collects predictions and references, `compute` scores them.

    Raises:
        ConfigError: no such metric, or it has no such configuration.
        OutdatedPackageError: `evaluate`, or what it imports, is older than the bound of this library.

    Example:
        >>> metric = load_metric("rmse", keep_in_memory=True)
        >>> metric.add_batch(predictions=[0.0, 1.0], references=[3.0, -2.0])
        >>> metric.compute()
        {'rmse': 3.0}
        >>> metric.higher_is_better
        False
    """
    if name not in _MODULES:
        raise ConfigError(f"There is no metric {quoted(name)}. Metrics: {', '.join(map(repr, sorted(_MODULES)))}.")
    check_installed("evaluate")
    from . import modules  # evaluate takes seconds to import

    return getattr(modules, _MODULES[name])(config_name=config_name, **settings)


def _probabilities(logits: Any, config: CIAOConfig) -> Any:
    """As `ciao_peft.probabilities.probabilities`, of arrays."""
    scaled = logits.astype(np.float64) / config.probability_temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
