"""Run the frozen trunk once over a dataset, keep its features, and train from those."""

from __future__ import annotations

from .augmentation import Augmentation
from .cached import FeatureDataset
from .extraction import SHARE_OF_MEMORY, cache_features, store_features
from .in_stores import load_features
from .keys import feature_bytes, fingerprint, model_key
from .layout import FeatureLayout, free_memory, readable_size
from .naming import check_labels_of
from .passing import batches_of
from .processes import Processes, check_launch
from .samples import ClipSamples, Samples, samples_of
from .store import key_hash

__all__ = [
    "SHARE_OF_MEMORY",
    "Augmentation",
    "ClipSamples",
    "FeatureDataset",
    "FeatureLayout",
    "Processes",
    "Samples",
    "batches_of",
    "cache_features",
    "check_labels_of",
    "check_launch",
    "feature_bytes",
    "fingerprint",
    "free_memory",
    "key_hash",
    "load_features",
    "model_key",
    "readable_size",
    "samples_of",
    "store_features",
]
