"""Adapters on disk: folders written whole or not at all, and read with suspicion."""

from __future__ import annotations

from .adapter_folder import SavedAdapter, library_versions, load_adapter, save_adapter
from .files import read_json

__all__ = ["SavedAdapter", "library_versions", "load_adapter", "read_json", "save_adapter"]
