"""A checksum for each stored row of each tensor, looked at when the row is first read."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import FeatureCacheError
from .layout import FeatureLayout, tensor_file

__all__ = ["CHECKSUM_BYTES", "CHECKSUM_FILE", "RowChecks", "as_bytes", "checksums_of", "row_checksums"]

CHECKSUM_FILE = "checksums.bin"
"""Holds the checksum of tensor n of row r at place r * tensors + n."""

CHECKSUM_BYTES = 4
"""Bytes of one checksum."""


def row_checksums(rows: Tensor) -> list[int]:
    """The CRC-32 of each row, which no single changed bit, and no burst of fewer than 33, leaves as it was.

    Args:
        rows: `(B, ...)` on the CPU, in any dtype.

    Example:
        >>> row_checksums(torch.zeros(2, 4)) == [zlib.crc32(bytes(16))] * 2
        True
    """
    if not len(rows) or not rows[0].numel():
        return [0] * len(rows)
    memory = rows.contiguous().flatten(1).view(torch.uint8).numpy()
    return [zlib.crc32(row) for row in memory]


def as_bytes(columns: Sequence[Sequence[int]]) -> bytes:
    """Checksums as they lie in the file.

    Args:
        columns: Those of each tensor, one for each row.

    Example:
        >>> as_bytes([[1, 2], [3, 4]]).hex()
        '01000000030000000200000004000000'
    """
    return b"".join(number.to_bytes(CHECKSUM_BYTES, "little") for row in zip(*columns, strict=True) for number in row)


def checksums_of(tensors: Sequence[Tensor]) -> bytes:
    """The content of `checksums.bin` for rows that lie there already.

    Args:
        tensors: All of a folder, `(num_rows, ...)` each.

    Example:
        >>> checksums_of([torch.zeros(2, 1)]) == 2 * zlib.crc32(bytes(4)).to_bytes(4, "little")
        True
    """
    return as_bytes([[number for row in tensor.split(256) for number in row_checksums(row)] for tensor in tensors])


class RowChecks:
    """The checksums of a folder of features, and which rows were looked at; datasets over one folder share it.

    Args:
        folder: Holds `checksums.bin`.
        layout: Shapes, dtype and number of the rows.

    Shapes:
        Rows are `(B, ...)` each, with the rest of their shapes from the layout.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / CHECKSUM_FILE).write_bytes(zlib.crc32(bytes(8)).to_bytes(4, "little") * 3)
        >>> checks = RowChecks(folder, FeatureLayout(((2,),), "float32", num_rows=3))
        >>> checks.check([2, 0], (torch.zeros(2, 2),))
        >>> checks.check([1], (torch.ones(1, 2),))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ciao_peft.errors.FeatureCacheError: Row 1 of the stored features in '...' is damaged: ...
    """

    def __init__(self, folder: Path, layout: FeatureLayout):
        self.folder = folder
        self.layout = layout
        self._expected: Tensor | None = None
        self._seen = torch.zeros(layout.num_rows, len(layout.shapes), dtype=torch.bool)

    def check(self, rows: Sequence[int] | Tensor, tensors: tuple[Tensor, ...]) -> None:
        """Refuses rows that are not what was written. Those that were looked at before are not looked at again.

        Args:
            rows: Their numbers, `(B,)`.
            tensors: What was read of them, of the first tensors of the layout.

        Raises:
            FeatureCacheError: names the first row that is damaged, and says what to do.
        """
        numbers = torch.as_tensor(rows, dtype=torch.long)
        for index, tensor in enumerate(tensors):
            new = (~self._seen[numbers, index]).nonzero().flatten()
            if not len(new):
                continue
            own, expected = numbers[new], self._all()
            found = row_checksums(tensor if len(new) == len(tensor) else tensor[new])
            for row, promised, checksum in zip(own.tolist(), expected[own, index].tolist(), found, strict=True):
                if promised & 0xFFFFFFFF != checksum:
                    raise FeatureCacheError(
                        f"Row {row} of the stored features in '{self.folder}' is damaged: in "
                        f"'{tensor_file(self.folder, index).name}' it is not what was written. Delete that folder, and "
                        "the features are made anew. Look after the disk if it happens again."
                    )
            self._seen[own, index] = True

    def _all(self) -> Tensor:
        if self._expected is None:
            shape = self._seen.shape
            try:
                content = bytearray((self.folder / CHECKSUM_FILE).read_bytes())
            except OSError as error:
                raise FeatureCacheError(
                    f"The stored features in '{self.folder}' cannot be checked: '{CHECKSUM_FILE}' cannot be read "
                    f"({error.strerror}). Delete that folder, and the features are made anew."
                ) from None
            if len(content) != shape.numel() * CHECKSUM_BYTES:
                raise FeatureCacheError(
                    f"The stored features in '{self.folder}' are damaged: '{CHECKSUM_FILE}' has {len(content)} bytes. "
                    "Delete that folder, and the features are made anew."
                )
            self._expected = torch.frombuffer(content, dtype=torch.int32).view(shape)
        return self._expected

    def __getstate__(self) -> dict[str, Any]:
        # Another process reads the checksums itself, and looks at each row once itself.
        return self.__dict__ | {"_expected": None, "_seen": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._seen = torch.zeros(self.layout.num_rows, len(self.layout.shapes), dtype=torch.bool)
