"""A checksum for each stored row of each tensor, looked at when the row is first read."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..door import read_file
from ..errors import FeatureCacheError
from .layout import FeatureLayout, file_size, map_file, tensor_file

__all__ = [
    "CHECKSUM_BYTES",
    "CHECKSUM_FILE",
    "RowChecks",
    "as_bytes",
    "checksums_on_disk",
    "read_exactly",
    "row_checksums",
    "rows_as_written",
]

CHECKSUM_FILE = "checksums.bin"
"""Holds the checksum of tensor n of row r at place r * tensors + n."""

CHECKSUM_BYTES = 4
"""Bytes of one checksum."""


_MOST_IN_MEMORY = 64 * 2**20  # bytes of checksums that are read as a whole


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


def read_exactly(folder: Path, name: str, num_bytes: int) -> bytes:
    """The content of a small file of a folder of features.

    Args:
        folder: The folder.
        name: Of the file.
        num_bytes: How many it must have.

    Raises:
        FeatureCacheError: it is missing, no regular file, cannot be read, or has another size; says what to do.
    """
    what, again = f"The stored features in '{folder}'", "Delete that folder, and the features are made anew."
    size = file_size(folder / name)
    if size != num_bytes:
        raise FeatureCacheError(
            f"{what} are damaged: '{name}' has {size} bytes where {num_bytes} were written. {again}"
        )
    try:
        content = read_file(folder / name, num_bytes, error=FeatureCacheError)
    except FeatureCacheError as error:
        raise FeatureCacheError(f"{what} cannot be checked: {error} {again}") from None
    if len(content) != num_bytes:  # it shrank meanwhile
        raise FeatureCacheError(f"{what} are being changed: '{name}' has {len(content)} bytes now. {again}")
    return content


def checksums_on_disk(folder: Path, layout: FeatureLayout, rows: Tensor) -> Tensor:
    """The checksums of what lies in the files now, `(rows, tensors)` int64.

    Args:
        folder: Holds `features.<n>.bin`.
        layout: Shapes, dtype and number of the rows.
        rows: Numbers of the rows, in ascending order, `(rows,)`.

    Raises:
        OSError: the disk refuses.
    """
    sums = torch.zeros(len(rows), len(layout.shapes), dtype=torch.long, device="cpu")
    for index in range(len(layout.shapes)):
        size = layout.file_bytes(index) // layout.num_rows
        with tensor_file(folder, index).open("rb") as file:
            for place, row in enumerate(rows.tolist()):
                file.seek(row * size)
                sums[place, index] = zlib.crc32(file.read(size))
    return sums


def rows_as_written(folder: Path, layout: FeatureLayout, rows: Tensor, *, with_checksums: bool) -> tuple[Tensor, bytes]:
    """Which of the rows of an interrupted folder lie there whole, whatever is said of them.

    Args:
        folder: Holds `features.<n>.bin` and `checksums.bin`.
        layout: Shapes, dtype and number of the rows.
        rows: Numbers of the rows that are said to be written, in ascending order, `(rows,)`.
        with_checksums: Whether rows have checksums. In a folder of an earlier version they have none, and those count
            that are not empty.

    Returns:
        Numbers of the rows that lie there, and the content of `checksums.bin` for them. It says of no other row that it
        lies there: the checksum of an empty one is not 0.

    Raises:
        OSError: the disk refuses.
    """
    found = checksums_on_disk(folder, layout, rows)
    if with_checksums:
        size = layout.num_rows * len(layout.shapes) * CHECKSUM_BYTES
        try:
            content = bytearray(read_exactly(folder, CHECKSUM_FILE, size))
        except FeatureCacheError:
            content = bytearray(size)  # they promise nothing
        promised = _as_tensor(content, layout)[rows].long() & 0xFFFFFFFF
        fits = (found == promised).all(dim=1)
    else:
        empty = [zlib.crc32(bytes(layout.file_bytes(n) // layout.num_rows)) for n in range(len(layout.shapes))]
        fits = (found != torch.tensor(empty, device="cpu")).any(dim=1)
    rows, kept = rows[fits], torch.zeros(layout.num_rows, len(layout.shapes), dtype=torch.long, device="cpu")
    kept[rows] = found[fits]
    return rows, as_bytes(kept.T.tolist())


def _as_tensor(content: bytearray, layout: FeatureLayout) -> Tensor:
    """Checksums as they lie in the file, `(num_rows, tensors)`; int32, for want of unsigned numbers."""
    shape = (layout.num_rows, len(layout.shapes))
    return (
        torch.frombuffer(content, dtype=torch.int32).view(shape) if content else torch.zeros(shape, dtype=torch.int32)
    )


class _Seen:
    """Which rows were looked at: a bit for each row of each tensor, in memory once one of its page is set."""

    def __init__(self, layout: FeatureLayout):
        self._bits = [np.zeros(-(-layout.num_rows // 8), dtype=np.uint8) for _ in layout.shapes]

    def of(self, rows: Tensor, index: int) -> Tensor:
        """Whether each row, `(B,)`, was added for a tensor, `(B,)`."""
        numbers = rows.numpy()
        return torch.from_numpy((self._bits[index][numbers >> 3] >> (numbers & 7).astype(np.uint8)) & 1 == 1)

    def add(self, rows: Tensor, index: int) -> None:
        """Adds rows, `(B,)`, for a tensor."""
        numbers = rows.numpy()
        np.bitwise_or.at(self._bits[index], numbers >> 3, np.uint8(1) << (numbers & 7).astype(np.uint8))


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
        self._seen = _Seen(layout)

    def check(
        self, rows: Sequence[int] | Tensor, tensors: tuple[Tensor, ...], places: Sequence[int] | None = None
    ) -> None:
        """Refuses rows that are not what was written. Those that were looked at before are not looked at again.

        Args:
            rows: Their numbers, `(B,)`.
            tensors: What was read of them.
            places: Of which tensors of the layout; of the first ones when left out.

        Raises:
            FeatureCacheError: names the first row that is damaged, and says what to do.
        """
        numbers = torch.as_tensor(rows, dtype=torch.long, device="cpu")
        for index, tensor in zip(range(len(tensors)) if places is None else places, tensors, strict=True):
            seen = self._seen.of(numbers, index)
            if bool(seen.all()):
                continue
            new = (~seen).nonzero().flatten()
            own, expected = numbers[new], self._all()
            found = row_checksums(tensor if len(new) == len(tensor) else tensor[new])
            for row, promised, checksum in zip(own.tolist(), expected[own, index].tolist(), found, strict=True):
                if promised & 0xFFFFFFFF != checksum:
                    raise FeatureCacheError(
                        f"Row {row} of the stored features in '{self.folder}' is damaged: in "
                        f"'{tensor_file(self.folder, index).name}' it is not what was written. Delete that folder, and "
                        "the features are made anew. Look after the disk if it happens again."
                    )
            self._seen.add(own, index)

    def _all(self) -> Tensor:
        if self._expected is None:
            numbers = self.layout.num_rows * len(self.layout.shapes)
            path = self.folder / CHECKSUM_FILE
            if numbers * CHECKSUM_BYTES <= _MOST_IN_MEMORY or file_size(path) != numbers * CHECKSUM_BYTES:
                content = read_exactly(self.folder, CHECKSUM_FILE, numbers * CHECKSUM_BYTES)
                self._expected = _as_tensor(bytearray(content), self.layout)
            else:  # mapped: of a billion rows there are 4 GB for each tensor, of which few are looked at
                flat = torch.frombuffer(map_file(path, numbers * CHECKSUM_BYTES), dtype=torch.int32)
                self._expected = flat.view(self.layout.num_rows, -1)
        return self._expected

    def __getstate__(self) -> dict[str, Any]:
        # Another process reads the checksums itself, and looks at each row once itself.
        return self.__dict__ | {"_expected": None, "_seen": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._seen = _Seen(self.layout)
