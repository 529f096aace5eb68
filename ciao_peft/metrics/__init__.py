"""Scores: plain functions, all that fit a problem at once, and the same as `evaluate` modules that load offline."""

from __future__ import annotations

from .problem import compute_metrics, load_metric, main_metric
from .scores import (
    accuracy,
    balanced_accuracy,
    concordance,
    confusion_matrix,
    f1_per_label,
    macro_f1,
    rmse,
)

__all__ = [
    "accuracy",
    "balanced_accuracy",
    "compute_metrics",
    "concordance",
    "confusion_matrix",
    "f1_per_label",
    "load_metric",
    "macro_f1",
    "main_metric",
    "rmse",
]
