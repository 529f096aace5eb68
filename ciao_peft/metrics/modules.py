"""The scores as `evaluate` modules: batches are added one by one, also by several processes, and scored at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import datasets
import evaluate

from ..errors import ConfigError
from . import scores

_IDS = datasets.Value("int64")
_NUMBER = datasets.Value("float32")
_INPUTS = """
Args:
    predictions: What was answered, one entry per sample.
    references: What is true, likewise.
"""


class _Score(evaluate.Metric):
    NAME: ClassVar[str]
    FEATURES: ClassVar[dict[str, Any]]  # of one sample, by config name

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

    def _compute(self, predictions: Any, references: Any, **options: Any) -> dict[str, Any]:
        value = getattr(scores, self.NAME)(predictions, references, **options)
        return {self.NAME: value.tolist() if hasattr(value, "tolist") else value}


class Accuracy(_Score):
    """`accuracy` for `evaluate`."""

    NAME = "accuracy"
    FEATURES = {"default": _IDS}


class BalancedAccuracy(_Score):
    """`balanced_accuracy` for `evaluate`."""

    NAME = "balanced_accuracy"
    FEATURES = {"default": _IDS}


class MacroF1(_Score):
    """`macro_f1` for `evaluate`: of classes, or with `config_name="multilabel"` of several labels at once."""

    NAME = "macro_f1"
    FEATURES = {"default": _IDS, "multilabel": datasets.List(datasets.Value("int64"))}


class ConfusionMatrix(_Score):
    """`confusion_matrix` for `evaluate`."""

    NAME = "confusion_matrix"
    FEATURES = {"default": _IDS}


class Concordance(_Score):
    """`concordance` for `evaluate`: of one value, or with `config_name="multioutput"` of several."""

    NAME = "concordance"
    FEATURES = {"default": _NUMBER, "multioutput": datasets.List(_NUMBER)}


class RMSE(_Score):
    """`rmse` for `evaluate`: of one value, or with `config_name="multioutput"` of several."""

    NAME = "rmse"
    FEATURES = {"default": _NUMBER, "multioutput": datasets.List(_NUMBER)}
