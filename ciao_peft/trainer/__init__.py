"""Training on Accelerate: `CIAOTrainer`, and the parts it is made of for training of another kind."""

from __future__ import annotations

from ..surroundings import random_state_kept
from .accelerator import gather_rows, make_accelerator, make_apart, precision_shared
from .arguments import CIAOTrainingArguments
from .calibrate import note_class_prior
from .course import count_updates
from .job import Job
from .loader import BatchDataset, BatchLoader
from .loop import TrainingLoop
from .many import AdapterJob, AdapterTraining, sorted_alike, train_adapters, trains_at_once
from .optimizer import adapter_optimizer
from .outputs import PredictionOutput, TrainOutput
from .recipes import RECIPES, SMALL_WORLD, recipe_for, recipe_settings
from .sampler import BalancedBatchSampler, BalancedSampler, plan_epoch
from .setting_groups import ALONE
from .sources import shows_the_same_twice
from .trainer import CIAOTrainer

__all__ = [
    "ALONE",
    "RECIPES",
    "SMALL_WORLD",
    "AdapterJob",
    "AdapterTraining",
    "BalancedBatchSampler",
    "BalancedSampler",
    "BatchDataset",
    "BatchLoader",
    "CIAOTrainer",
    "CIAOTrainingArguments",
    "Job",
    "PredictionOutput",
    "TrainOutput",
    "TrainingLoop",
    "adapter_optimizer",
    "count_updates",
    "gather_rows",
    "make_accelerator",
    "make_apart",
    "note_class_prior",
    "plan_epoch",
    "precision_shared",
    "random_state_kept",
    "recipe_for",
    "recipe_settings",
    "shows_the_same_twice",
    "sorted_alike",
    "train_adapters",
    "trains_at_once",
]
