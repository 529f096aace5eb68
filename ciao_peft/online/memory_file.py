"""A memory's file: one file of safetensors, written whole or not at all, and read with suspicion."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..checking import all_finite, is_number
from ..door import check_types, parse_json, read_file
from ..errors import AdapterFileError, FeatureCacheError, listed, quoted
from ..features.stored_depths import depths_of
from ..saving import parse_tensors, refusals_told, write_file
from ..saving.digest import DIGEST, digest_of_folder, sha256_of
from ..saving.files import checked_path
from ..saving.safetensors_file import MAX_HEADER_BYTES

__all__ = ["pack", "read_memory", "unpack", "write_memory"]

FORMAT_VERSION = 1
MAX_MEMORY_BYTES = 16 * 2**30
MAX_COUNT = 2**53  # of faces and updates; nobody comes near it
_ENTRY = "ciao_memory"
_SETTINGS = {
    "max_bytes": int,
    "policy": str,
    "held_share": (int, float),
    "dtype": str,
    "seed": int,
}
_KEY = {"backbone": dict, "backbone_dtype": str, "targets": list, "preprocessing": (dict, type(None))}


def pack(tensors: dict[str, Tensor], record: dict[str, Any]) -> bytes:
    """The content of a memory's file.

    Args:
        tensors: By name.
        record: Plain data.

    Example:
        >>> content = pack({"labels": torch.zeros(1, 2)}, {"key": None})
        >>> unpack(content, "memory.safetensors")[0]["labels"].shape
        torch.Size([1, 2])
    """
    import json

    from safetensors.torch import save

    own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    noted: dict[str, Any] = {"format_version": FORMAT_VERSION, **record}
    noted[DIGEST] = digest_of_folder(noted, _checksums(own))
    return save(own, metadata={"format": "pt", _ENTRY: json.dumps(noted, allow_nan=False)})


def _checksums(tensors: dict[str, Tensor]) -> dict[str, str]:
    """SHA-256 of each tensor's shape, dtype and bytes."""
    return {
        name: sha256_of(f"{tensor.dtype} {[*tensor.shape]}".encode() + _bytes_of(tensor))
        for name, tensor in tensors.items()
    }


def _bytes_of(tensor: Tensor) -> bytes:
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def unpack(content: bytes, path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the record of a memory's file.

    Args:
        content: Of the file.
        path: The file, for the messages.

    Raises:
        AdapterFileError: it is no memory, of a newer version, or not as it was written.
    """

    def refuse(what: str) -> NoReturn:
        raise AdapterFileError(f"'{os.fspath(path)}' {what}")

    tensors = parse_tensors(content, Path(path))
    header = content[8 : 8 + min(int.from_bytes(content[:8], "little"), MAX_HEADER_BYTES)]
    noted = parse_json(header, path, error=AdapterFileError)["__metadata__"] if b"__metadata__" in header else {}
    if not isinstance(noted, dict) or not isinstance(noted.get(_ENTRY), str):
        refuse("is no memory of stored features: `FeatureMemory.save` writes one.")
    record = parse_json(noted[_ENTRY], path, error=AdapterFileError)
    check_types(record, {"format_version": int, DIGEST: str}, path, error=AdapterFileError)
    if record["format_version"] != FORMAT_VERSION:
        refuse(f"has format_version {quoted(record['format_version'])}; this version reads {FORMAT_VERSION}.")
    if record[DIGEST] != digest_of_folder(record, _checksums(tensors)):
        refuse("is not as it was saved: its digest is another one. Save it again, or make a new memory.")
    return tensors, {name: value for name, value in record.items() if name not in (DIGEST, "format_version")}


def write_memory(path: str | os.PathLike[str], tensors: dict[str, Tensor], record: dict[str, Any]) -> Path:
    """Writes a memory's file, whole or not at all.

    Args:
        path: The file.
        tensors: By name.
        record: Plain data.

    Raises:
        AdapterFileError: the disk refuses; what was there stays.
    """
    path = checked_path(path)
    with refusals_told(AdapterFileError, path, "Make room, or give another path; what was there is unchanged."):
        return write_file(path, pack(tensors, record))


def read_memory(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a memory's file, and checks that everything in it fits together.

    Args:
        path: The file.

    Raises:
        AdapterFileError: it is missing, damaged, or no memory.
    """
    path = checked_path(path)
    tensors, record = unpack(read_file(path, MAX_MEMORY_BYTES, error=AdapterFileError), path)
    check_memory(tensors, record, path)
    return tensors, record


def check_memory(tensors: dict[str, Tensor], record: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Refuses what no memory of this version could have written, though its digest fits.

    Args:
        tensors: By name.
        record: Plain data.
        path: The file, for the messages.

    Raises:
        AdapterFileError: says what does not fit.
    """

    def refuse(what: str) -> NoReturn:
        raise AdapterFileError(f"'{os.fspath(path)}' {what}. Make a new memory: `FeatureMemory.from_dataset`.")

    check_types(record, {"settings": dict, "key": (dict, type(None)), "seen": dict}, path, error=AdapterFileError)
    if more := {*record} - {"settings", "key", "seen"}:
        refuse(f"has unknown entries {listed(more)}")
    check_types(record["settings"], _SETTINGS, path, error=AdapterFileError)
    if more := {*record["settings"]} - {*_SETTINGS}:
        refuse(f"has unknown settings {listed(more)}")
    if record["key"] is not None:
        check_types(record["key"], _KEY, path, error=AdapterFileError)
        try:
            depths_of(record["key"])
        except FeatureCacheError as error:
            refuse(f"has a key that is none: {error}")
    seen = record["seen"]
    if not all(
        key.isascii() and key.isdigit() and len(key) < 20 and is_number(count, int, 1, MAX_COUNT)
        for key, count in seen.items()
    ):
        refuse("counts faces by classes that are none")
    names = sorted(name for name in tensors if name.startswith("features."))
    sums = {name for name in tensors if name.startswith("sums.")}
    if not sums <= {f"sums.{kind}" for kind in seen} or not all(
        tensors[name].dtype == torch.float64 and tensors[name].ndim == 1 for name in sums
    ):
        refuse("has sums of classes that it has not seen")
    if not names:
        if {*tensors} - sums:
            refuse(f"holds {listed({*tensors} - sums)} without features")
        return
    expected = {*(f"features.{index}" for index in range(len(names))), *sums, "labels", "classes", "held"}
    if {*tensors} != expected or record["key"] is None:
        refuse(f"holds {listed(tensors)} where {listed(expected)} were expected")
    count = len(tensors["labels"]) if tensors["labels"].ndim == 2 else -1
    dtypes = {"labels": torch.float32, "classes": torch.int64, "held": torch.uint8}
    least = 1 if record["key"].get("frames") is None else 2
    dtype = {"float16": torch.float16, "float32": torch.float32}.get(record["settings"]["dtype"])
    fits = all(tensors[name].ndim >= 1 and len(tensors[name]) == count for name in expected - sums)
    fits = fits and all(tensors[name].dtype == kind for name, kind in dtypes.items())
    fits = fits and all(tensors[name].dtype == dtype and tensors[name].ndim > least for name in names)
    if not fits or any(str(kind) not in seen for kind in tensors["classes"].tolist()):
        refuse("has tensors that do not fit together")
    if math.prod(tensors["labels"].shape) == 0:
        refuse("has faces without labels")
    if not all(map(all_finite, tensors.values())):
        refuse("holds NaN or infinite values")
    channels = sum(tensors[name][0].shape[1 if record["key"].get("frames") else 0] for name in names) if sums else 0
    if any(len(tensors[name]) != channels for name in sums):
        refuse("has sums of another length than its features")
