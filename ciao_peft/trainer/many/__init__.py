"""Many trainings at once: adapters of equal shape, stacked, in one loop over stored features."""

from __future__ import annotations

from .jobs import AdapterJob, AdapterTraining, sorted_alike
from .training import train_adapters, trains_at_once

__all__ = ["AdapterJob", "AdapterTraining", "sorted_alike", "train_adapters", "trains_at_once"]
