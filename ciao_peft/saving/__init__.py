"""Adapters on disk: folders written whole or not at all, and read with suspicion."""

from __future__ import annotations

from .adapter_folder import SavedAdapter, library_versions, load_adapter, save_adapter
from .files import move_into_place, read_json, write_file, write_folder

__all__ = [
    "SavedAdapter",
    "library_versions",
    "load_adapter",
    "move_into_place",
    "read_json",
    "save_adapter",
    "write_file",
    "write_folder",
]
