"""The scores as `evaluate` modules: batches are added one by one, also by several processes, and scored at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import datasets
import evaluate

from ..errors import ConfigError
from . import scores
from .kinds import SCORES

__all__ = ["RMSE", "Accuracy", "BalancedAccuracy", "Concordance", "ConfusionMatrix", "MacroF1"]

_IDS = datasets.Value("int64")
_NUMBER = datasets.Value("float32")
_INPUTS = """
Args:
    predictions: What the model predicted, one entry per sample.
    references: The labels, one entry per sample.
"""


class _Score(evaluate.Metric):
    NAME: ClassVar[str]
    FEATURES: ClassVar[dict[str, Any]]  # type of one sample's prediction, by config name

    @property
    def higher_is_better(self) -> bool | None:
        """Which of two values belongs to the better model; None where there is more than one number to compare."""
        return SCORES[self.NAME].higher_is_better if self.NAME in SCORES else None

    @property
    def lowest(self) -> float | None:
        """Smallest value that the score can have."""
        return SCORES[self.NAME].lowest if self.NAME in SCORES else None

    @property
    def highest(self) -> float | None:
        """Largest value that the score can have."""
        return SCORES[self.NAME].highest if self.NAME in SCORES else None

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in self.FEATURES:
            known = ", ".join(map(repr, self.FEATURES))
            raise ConfigError(f"The metric {self.NAME!r} has no configuration {self.config_name!r}. There is: {known}.")
        feature = self.FEATURES[self.config_name]
        function: Callable[..., Any] = getattr(scores, self.NAME)
        return evaluate.MetricInfo(
            description=function.__doc__ or "",
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features({"predictions": feature, "references": feature}),
        )

    def _compute(self, *, predictions: Any = None, references: Any = None, **options: Any) -> dict[str, Any]:
        value = getattr(scores, self.NAME)(predictions, references, **options)
        return {self.NAME: value.tolist() if hasattr(value, "tolist") else value}


class Accuracy(_Score):
    """`ciao_peft.metrics.accuracy` as a metric of `evaluate`; made by `load_metric("accuracy")`.

    Example:
        >>> metric = Accuracy(keep_in_memory=True)
        >>> metric.compute(predictions=[0, 1, 1, 2], references=[0, 1, 2, 2])
        {'accuracy': 0.75}
    """

    NAME = "accuracy"
    FEATURES = {"default": _IDS}


class BalancedAccuracy(_Score):
    """`ciao_peft.metrics.balanced_accuracy` as a metric of `evaluate`.

    Example:
        >>> metric = BalancedAccuracy(keep_in_memory=True)
        >>> metric.compute(predictions=[0, 0, 0, 0], references=[0, 0, 0, 1])
        {'balanced_accuracy': 0.5}
    """

    NAME = "balanced_accuracy"
    FEATURES = {"default": _IDS}


class MacroF1(_Score):
    """`ciao_peft.metrics.macro_f1` as a metric of `evaluate`: of classes, or with `config_name="multilabel"` of several
    labels at once.

    Example:
        >>> metric = MacroF1(config_name="multilabel", keep_in_memory=True)
        >>> metric.compute(predictions=[[1, 0], [0, 1]], references=[[1, 0], [0, 1]])
        {'macro_f1': 1.0}
    """

    NAME = "macro_f1"
    FEATURES = {"default": _IDS, "multilabel": datasets.List(datasets.Value("int64"))}


class ConfusionMatrix(_Score):
    """`ciao_peft.metrics.confusion_matrix` as a metric of `evaluate`, the matrix as lists of rows.

    Example:
        >>> metric = ConfusionMatrix(keep_in_memory=True)
        >>> metric.compute(predictions=[0, 1, 1], references=[0, 1, 0])
        {'confusion_matrix': [[1, 1], [0, 1]]}
    """

    NAME = "confusion_matrix"
    FEATURES = {"default": _IDS}


class Concordance(_Score):
    """`ciao_peft.metrics.concordance` as a metric of `evaluate`: of one value, or with `config_name="multioutput"` of
    several.

    Example:
        >>> metric = Concordance(config_name="multioutput", keep_in_memory=True)
        >>> metric.compute(predictions=[[1.0, 0.0], [2.0, 1.0]], references=[[1.0, 1.0], [2.0, 0.0]])
        {'concordance': [1.0, -1.0]}
    """

    NAME = "concordance"
    FEATURES = {"default": _NUMBER, "multioutput": datasets.List(_NUMBER)}


class RMSE(_Score):
    """`ciao_peft.metrics.rmse` as a metric of `evaluate`: of one value, or with `config_name="multioutput"` of several.

    Example:
        >>> metric = RMSE(keep_in_memory=True)
        >>> metric.compute(predictions=[0.0, 1.0], references=[3.0, -2.0])
        {'rmse': 3.0}
    """

    NAME = "rmse"
    FEATURES = {"default": _NUMBER, "multioutput": datasets.List(_NUMBER)}
