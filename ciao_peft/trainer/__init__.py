"""Train one adapter, on one process or many."""

from __future__ import annotations

from .accelerator import gather_rows
from .arguments import CIAOTrainingArguments
from .sampler import plan_epoch
from .trainer import CIAOTrainer, PredictionOutput, TrainOutput

__all__ = ["CIAOTrainer", "CIAOTrainingArguments", "PredictionOutput", "TrainOutput", "gather_rows", "plan_epoch"]
