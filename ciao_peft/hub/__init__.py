"""A folder on the Hub: found, bounded in size, pinned to a commit, cached; published in one commit.

Knows files, not what they mean: callers say which files they need and how to read the folder.
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
