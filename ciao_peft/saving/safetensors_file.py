"""The tensors of a safetensors file: mapped into memory, hashed where they lie, and checked."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..checking import all_finite
from ..door import open_file
from ..errors import AdapterFileError, FileReadError, listed, quoted, shortened

__all__ = ["MAX_HEADER_BYTES", "kind_of", "parse_tensors", "pickled_instead", "read_weights"]

MAX_HEADER_BYTES = 16 * 2**20
"""The longest header of a safetensors file that is read."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_weights(path: Path, num_bytes: int, sha256: str) -> Tensor:
    """Maps a file of known size and checksum into memory.

    Nothing is copied, processes that hold the same file share its pages, and whoever writes into them gets pages of its
    own, never the file. This holds as long as the file is replaced by moving another one into its place, as
    `write_folder` and the Hub's cache do, and is not written over where it lies.

    Args:
        path: The file.
        num_bytes: Its size.
        sha256: Its SHA-256, 64 hexadecimal digits.

    Returns:
        Its bytes, `(num_bytes,)` in uint8.

    Raises:
        AdapterFileError: it is missing, cannot be read, or is not the file that was promised.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "adapter_model.safetensors")
        >>> path.write_bytes(b"weights")
        7
        >>> read_weights(path, 7, hashlib.sha256(b"weights").hexdigest()).shape
        torch.Size([7])
    """
    again = "Save the adapter again, or download it anew."
    if not path.is_file():
        raise AdapterFileError(f"'{path}' is missing.{pickled_instead(path.parent)} {again}")
    size = path.stat().st_size
    if size != num_bytes:
        raise AdapterFileError(
            f"'{path}' has {size} bytes where its config promises {num_bytes}{kind_of(path)}. {again}"
        )
    content = _mapped(path, size)
    buffer = cast(Any, content.numpy())  # an array is a buffer, which Python 3.10 has no type for
    if hashlib.sha256(buffer).hexdigest() != sha256:
        raise AdapterFileError(
            f"'{path}' does not have the checksum its config promises{kind_of(path)}: it was damaged or replaced. "
            f"{again}"
        )
    return content


def _mapped(path: Path, size: int) -> Tensor:
    # Windows lets nobody replace a file that is mapped, and torch finds none whose name is no text in UTF-8.
    if size == 0 or os.name == "nt" or os.fsencode(path).decode(errors="ignore") != str(path):
        return torch.tensor(bytearray(path.read_bytes()), dtype=torch.uint8, device="cpu")
    try:
        # Not Python's mmap, which keeps a file descriptor for each adapter that is held.
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except RuntimeError as error:
        raise AdapterFileError(f"'{path}' cannot be read: {str(error).splitlines()[0]}.") from error


def kind_of(path: Path) -> str:
    """Says in parentheses what a file that should be safetensors looks like; an empty text where that is unknown.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "adapter_model.safetensors")
        >>> path.write_text("<!doctype html>")
        15
        >>> kind_of(path)
        ' (it is a web page)'
    """
    try:
        with open_file(path) as file:
            start = file.read(64)
    except (FileReadError, OSError):
        return ""
    if start.startswith(b"version https://git-lfs"):
        return " (it is a Git LFS pointer: run `git lfs pull`)"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return " (it is a web page)"
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return " (it is a pickle or an archive, not safetensors)"
    return ""


def pickled_instead(folder: Path) -> str:
    """The hint for a folder that lacks weights but holds pickled ones; an empty text where it holds none.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "pytorch_model.bin").touch()
        >>> pickled_instead(folder)
        ' Pickled weights (.bin) are never read: they can run code. Convert them to safetensors.'
    """
    if any((folder / name).exists() for name in ("adapter_model.bin", "pytorch_model.bin")):
        return " Pickled weights (.bin) are never read: they can run code. Convert them to safetensors."
    return ""


def parse_tensors(content: bytes | Tensor, path: Path) -> dict[str, Tensor]:
    """Finds the tensors in the bytes of a safetensors file, each with a storage of its own.

    Args:
        content: What is in the file: bytes, of which a copy is made, or a uint8 tensor, in which the tensors then lie.
        path: Path of the file, for the messages.

    Returns:
        The tensors by name.

    Raises:
        AdapterFileError: it is no safetensors file, or a value is not finite.

    Example:
        >>> from safetensors.torch import save
        >>> parse_tensors(save({"decay": torch.ones(2)}), Path("adapter_model.safetensors"))
        {'decay': tensor([1., 1.])}
    """
    memory = content.numpy() if isinstance(content, Tensor) else memoryview(content)
    size = len(memory)
    data = 8 + int.from_bytes(bytes(memory[:8]), "little")  # where the header ends
    if size < 8 or data > min(8 + MAX_HEADER_BYTES, size):
        raise AdapterFileError(f"'{path}' is no safetensors file: its header does not fit{kind_of(path)}.")
    try:
        places = _places(bytes(memory[8:data]), size - data)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AdapterFileError(f"'{path}' is no valid safetensors file: {shortened(str(error))}.") from error
    if not isinstance(content, Tensor):
        memory = memoryview(bytearray(content))  # tensors are written to; only what is valid is copied
    tensors = {
        name: torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=data + start).view(shape)
        if math.prod(shape)
        else torch.empty(shape, dtype=dtype, device="cpu")
        for name, (dtype, shape, start) in places.items()
    }
    if broken := [name for name, tensor in tensors.items() if not all_finite(tensor)]:
        raise AdapterFileError(
            f"'{path}' holds NaN or infinite values in {listed(broken)}; training diverged before saving."
        )
    return tensors


def _places(header: bytes, num_bytes: int) -> dict[str, tuple[torch.dtype, list[int], int]]:
    """Dtype, shape and first byte of each tensor. Together they fill the data, and no byte belongs to two."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError(f"a name comes twice in {listed(name for name, _ in pairs)}")
        return dict(pairs)

    entries = json.loads(header, object_pairs_hook=once)
    if not isinstance(entries, dict):
        raise ValueError(f"its header is a {type(entries).__name__} where an object was expected")
    entries.pop("__metadata__", None)
    places: dict[str, tuple[torch.dtype, list[int], int]] = {}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: tuple(item[1]["data_offsets"])):
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{quoted(name)} is of dtype {quoted(entry['dtype'])}; known are {listed(_DTYPES)}")
        dtype, shape, (start, stop) = _DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (*shape, start, stop)):
            raise ValueError(f"{quoted(name)} has a shape or place that is no whole number")
        if start != end or stop != start + dtype.itemsize * math.prod(shape) or stop > num_bytes:
            raise ValueError(f"{quoted(name)} is not where its dtype, its shape and the tensors before it put it")
        places[name], end = (dtype, shape, start), stop
    if end != num_bytes:
        raise ValueError(f"its tensors take {end} bytes where {num_bytes} follow the header")
    return places
