"""One adapter as modules, and everything that puts several of them on one backbone."""

from __future__ import annotations

from .active import ActiveAdapter
from .adapter import Adapter, AdapterDict
from .mixed_batch import Source, checked_source, frames_read, read_maps, read_mixed, rows_by_adapter
from .restore import restore_adapter
from .seen import Seen
from .stack import Call, decide_all, is_stacked_on, kind_of, masks_together

__all__ = [
    "ActiveAdapter",
    "Adapter",
    "AdapterDict",
    "Call",
    "Seen",
    "Source",
    "checked_source",
    "decide_all",
    "frames_read",
    "is_stacked_on",
    "kind_of",
    "masks_together",
    "read_maps",
    "read_mixed",
    "restore_adapter",
    "rows_by_adapter",
]
