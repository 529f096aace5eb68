"""Hashes of what a dataset shows: arrays, tensors, files and pictures."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..preprocessing.ahead import in_threads
from ..preprocessing.pictures import open_picture

__all__ = ["digest_of", "digests_of", "picture_bytes", "picture_digest"]

_AT_ONCE = 16  # values that a thread hashes in a row


def digest_of(value: Any) -> bytes:
    """Hashes an array, a tensor, the file at a path, or what a picture shows once it is prepared.

    Args:
        value: An array, a tensor, a path, or a picture of PIL.

    Returns:
        16 bytes.

    Example:
        >>> digest_of(torch.zeros(2)) == digest_of(torch.zeros(2))
        True
        >>> digest_of(torch.zeros(2)) == digest_of(torch.ones(2))
        False
    """
    if isinstance(value, (str, Path)):
        return hashlib.blake2b(Path(value).read_bytes(), digest_size=16).digest()
    pillow = sys.modules.get("PIL.Image")  # nobody has a picture who did not import it
    if pillow is not None and isinstance(value, pillow.Image):
        value = open_picture(value)
        if value.mode in ("P", "PA") or ("transparency" in value.info and value.mode in ("1", "L", "RGB")):
            value = value.convert("RGBA")  # the same numbers mean something else with another palette
    kind = getattr(value, "mode", "")
    if isinstance(value, Tensor):
        kind, value = str(value.dtype), value.detach().cpu().contiguous().view(torch.uint8).numpy()
    array = np.ascontiguousarray(value)
    digest = hashlib.blake2b(f"{kind}\0{array.dtype.str}\0{array.shape}\0".encode(), digest_size=16)
    digest.update(
        array.reshape(-1).view(np.uint8).data if array.size and not array.dtype.hasobject else array.tobytes()
    )
    return digest.digest()


def picture_bytes(value: Mapping[str, Any]) -> bytes:
    """Reads the file of a picture that was not decoded: kept in the row, on disk, in an archive or far away.

    Args:
        value: A picture as `datasets` keeps it, with `bytes` and `path`.

    Example:
        >>> picture_bytes({"bytes": b"PNG", "path": None})
        b'PNG'
    """
    if value.get("bytes") is not None:
        return value["bytes"]
    if "://" not in value["path"]:
        return Path(value["path"]).read_bytes()
    from datasets.utils.file_utils import xopen  # in an archive, or far away

    with xopen(value["path"], "rb") as file:
        return file.read()


def picture_digest(value: Mapping[str, Any], mode: str | None) -> bytes:
    """Hashes the file of a picture and the mode into which it is converted.

    Args:
        value: A picture as `datasets` keeps it, with `bytes` and `path`.
        mode: PIL's name of the mode, such as `"RGB"`.

    Returns:
        16 bytes.

    Example:
        >>> grey, colour = (picture_digest({"bytes": b"PNG"}, mode) for mode in ("L", "RGB"))
        >>> len(grey), grey == colour
        (16, False)
    """
    digest = hashlib.blake2b(f"{mode}\0".encode(), digest_size=16)
    digest.update(picture_bytes(value))
    return digest.digest()


def digests_of(
    indices: Sequence[int], read: Callable[[Sequence[int]], Sequence[Any]], mode: str | None = None
) -> list[bytes]:
    """Hashes values in threads, while the next ones are read in the thread of the caller.

    Args:
        indices: Their numbers.
        read: From some of the numbers to the values, as `digest_of` takes them; or pictures that `datasets` has not
            decoded, as `picture_digest` takes them.
        mode: For `picture_digest`.

    Returns:
        16 bytes for each.

    Example:
        >>> rows = torch.eye(3)
        >>> digests_of([0, 2], lambda numbers: [rows[n] for n in numbers])[1] == digest_of(rows[2])
        True
    """

    def hashed(values: Sequence[Any]) -> list[bytes]:
        return [picture_digest(v, mode) if isinstance(v, Mapping) else digest_of(v) for v in values]

    parts = (list(indices[first : first + _AT_ONCE]) for first in range(0, len(indices), _AT_ONCE))
    return [digest for part in in_threads(hashed, (list(read(part)) for part in parts), ahead=1) for digest in part]
