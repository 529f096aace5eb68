"""Adapters on disk: folders written whole or not at all, and read with suspicion."""

from __future__ import annotations

from .adapter_folder import (
    CARD_FILE,
    CONFIG_FILE,
    PICTURE_FILE,
    PREPROCESSOR_FILE,
    WEIGHTS_FILE,
    SavedAdapter,
    check_tensors,
    in_dtype,
    library_versions,
    load_adapter,
    save_adapter,
)
from .files import (
    MAX_JSON_BYTES,
    local_path,
    move_into_place,
    read_json,
    refusals_told,
    to_json,
    write_file,
    write_folder,
)
from .safetensors_file import parse_tensors

__all__ = [
    "CARD_FILE",
    "CONFIG_FILE",
    "MAX_JSON_BYTES",
    "PICTURE_FILE",
    "PREPROCESSOR_FILE",
    "WEIGHTS_FILE",
    "SavedAdapter",
    "check_tensors",
    "in_dtype",
    "library_versions",
    "load_adapter",
    "local_path",
    "move_into_place",
    "parse_tensors",
    "read_json",
    "refusals_told",
    "save_adapter",
    "to_json",
    "write_file",
    "write_folder",
]
