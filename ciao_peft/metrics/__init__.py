"""Scores: plain functions, all that fit a problem at once, and the same as `evaluate` modules that load offline."""

from __future__ import annotations

from .kinds import SCORES, Score, higher_is_better, kind_of
from .problem import compute_metrics, load_metric, main_metric
from .scores import (
    accuracy,
    balanced_accuracy,
    calibration_error,
    concordance,
    confusion_matrix,
    f1_per_label,
    macro_f1,
    rmse,
)
from .streams import average_accuracy, backward_transfer, forgetting, forward_transfer

__all__ = [
    "SCORES",
    "Score",
    "accuracy",
    "average_accuracy",
    "backward_transfer",
    "balanced_accuracy",
    "calibration_error",
    "compute_metrics",
    "concordance",
    "confusion_matrix",
    "f1_per_label",
    "forgetting",
    "forward_transfer",
    "higher_is_better",
    "kind_of",
    "load_metric",
    "macro_f1",
    "main_metric",
    "rmse",
]
