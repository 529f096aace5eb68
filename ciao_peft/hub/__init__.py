"""Folders on the Hub: downloaded with bounded sizes, pinned to a commit and cached; published in one commit.

Downloading and publishing know files, not their meaning: callers say which files they need and how to read the folder.
`read_adapter`, `save_with_card` and `publish_adapter` are such callers, for adapters.
"""

from __future__ import annotations

from ..remote import RepoFile
from .adapters import ADAPTER_FILES, name_from, publish_adapter, read_adapter, save_with_card
from .bundled import BundledAdapter, bundled_adapters, bundled_folder, list_adapters
from .client import as_our_errors, must_stay_offline, open_client
from .downloading import MAX_WEIGHTS_BYTES, Snapshot, download, is_hub_id, prefix_of, read_pretrained
from .publishing import RepoHead, publish

__all__ = [
    "ADAPTER_FILES",
    "MAX_WEIGHTS_BYTES",
    "BundledAdapter",
    "RepoFile",
    "RepoHead",
    "Snapshot",
    "as_our_errors",
    "bundled_adapters",
    "bundled_folder",
    "download",
    "is_hub_id",
    "list_adapters",
    "must_stay_offline",
    "name_from",
    "open_client",
    "prefix_of",
    "publish",
    "publish_adapter",
    "read_adapter",
    "read_pretrained",
    "save_with_card",
]
