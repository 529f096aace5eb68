"""Train one adapter, on one process or many."""

from __future__ import annotations

from .arguments import CIAOTrainingArguments
from .gathering import gather_rows
from .sampling import plan_epoch
from .trainer import CIAOTrainer, PredictionOutput, TrainOutput

__all__ = ["CIAOTrainer", "CIAOTrainingArguments", "PredictionOutput", "TrainOutput", "gather_rows", "plan_epoch"]
