"""Learning on the job: corrections, a memory of stored features, a guard against forgetting, and undo."""

from __future__ import annotations

from .arguments import OnlineArguments
from .drift import PageHinkley
from .herding import herd
from .learning import distillation_loss
from .memory import FeatureMemory
from .rows import Faces
from .trainer import OnlineTrainer
from .update import OnlineUpdate, Version

__all__ = [
    "Faces",
    "FeatureMemory",
    "OnlineArguments",
    "OnlineTrainer",
    "OnlineUpdate",
    "PageHinkley",
    "Version",
    "distillation_loss",
    "herd",
]
