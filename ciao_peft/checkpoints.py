"""The old name of `ciao_peft.saving`, kept for one release."""

from __future__ import annotations

import warnings

from .saving import SavedAdapter, library_versions, load_adapter, read_json, save_adapter

__all__ = [
    "SavedAdapter",
    "library_versions",
    "load_adapter",
    "read_json",
    "save_adapter",
]

warnings.warn("`ciao_peft.checkpoints` is `ciao_peft.saving` now.", DeprecationWarning, stacklevel=2)
