"""Many trainings at once: adapters of equal shape, stacked, in one loop over stored features."""

from __future__ import annotations

from .jobs import AdapterJob, AdapterTraining
from .training import train_adapters

__all__ = ["AdapterJob", "AdapterTraining", "train_adapters"]
