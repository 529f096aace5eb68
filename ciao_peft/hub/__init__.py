"""Folders on the Hub: downloaded with bounded sizes, pinned to a commit and cached; published in one commit.

This room knows files, not their meaning: callers say which files they need and how to read the folder.
"""

from __future__ import annotations

from .downloading import RepoFile, Snapshot, download, is_hub_id, prefix_of, read_pretrained
from .publishing import RepoHead, publish

__all__ = [
    "MAX_WEIGHTS_BYTES",
    "RepoFile",
    "RepoHead",
    "Snapshot",
    "download",
    "is_hub_id",
    "prefix_of",
    "publish",
    "read_pretrained",
]

MAX_WEIGHTS_BYTES = 4 * 2**30
"""The largest file of weights that is downloaded, 4 GiB."""
