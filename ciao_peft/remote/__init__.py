"""Folders in object stores and on web servers: fetched with bounded sizes into a cache, and put with the config last.

Like `ciao_peft.hub`, this room knows files and not their meaning. It follows the URLs that a caller gives, no others.
"""

from __future__ import annotations

from ..urls import FolderURL, is_url, parse_url
from .fetching import RepoFile, cache_of, fetch, folder_aside, locked
from .patience import TooLate, within
from .putting import put_folder, save_folder, writable
from .store import FoundFile, Store

__all__ = [
    "FolderURL",
    "FoundFile",
    "RepoFile",
    "Store",
    "TooLate",
    "cache_of",
    "fetch",
    "folder_aside",
    "is_url",
    "locked",
    "parse_url",
    "put_folder",
    "save_folder",
    "within",
    "writable",
]
