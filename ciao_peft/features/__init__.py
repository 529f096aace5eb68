"""Run the frozen trunk once over a dataset, keep its features, and train from those."""

from __future__ import annotations

from .augmentation import Augmentation
from .cached import FeatureDataset
from .extraction import SHARE_OF_MEMORY, cache_features, feature_bytes, fingerprint, model_key, store_features
from .processes import Processes, check_launch
from .samples import ClipSamples, Samples, check_labels_of, samples_of
from .store import Layout as FeatureLayout
from .store import free_memory, key_hash, readable_size

__all__ = [
    "SHARE_OF_MEMORY",
    "Augmentation",
    "ClipSamples",
    "FeatureDataset",
    "FeatureLayout",
    "Processes",
    "Samples",
    "cache_features",
    "check_labels_of",
    "check_launch",
    "feature_bytes",
    "fingerprint",
    "free_memory",
    "key_hash",
    "model_key",
    "readable_size",
    "samples_of",
    "store_features",
]
