"""Shapes and sizes of stored features: what the files hold, how many bytes that takes, and how many are free."""

from __future__ import annotations

import contextlib
import errno
import math
import mmap
import os
import shutil
import stat
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

try:
    import resource
except ImportError:  # on Windows
    resource = None

from ..checking import is_number
from ..errors import FeatureCacheError, shortened

__all__ = [
    "DTYPES",
    "FeatureLayout",
    "MappedRows",
    "consecutive_runs",
    "file_size",
    "free_disk",
    "free_memory",
    "make_file",
    "map_file",
    "map_tensors",
    "open_to_fill",
    "readable_size",
    "tensor_file",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes in which features can be stored, by name."""

_NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux, which Python names since 3.13
_MOST_TENSORS = 10_000
_MOST_DIMENSIONS = 64
_LARGEST_ROW = 2**31  # bytes of one tensor; a row is read into memory as a whole
_LARGEST_STORE = 2**60


@dataclass(frozen=True)
class FeatureLayout:
    """Shapes, dtype and number of the rows that are stored.

    Args:
        shapes: The shape of one row of each tensor.
        dtype: The dtype of all tensors: `"float32"`, `"bfloat16"` or `"float16"`.
        num_rows: Samples times views; view v of sample i is row `v * samples + i`.

    Example:
        >>> layout = FeatureLayout(((8, 6, 6),), "float16", num_rows=10)
        >>> layout.row_bytes(), layout.file_bytes(0)
        (576, 5760)
    """

    shapes: tuple[tuple[int, ...], ...]
    dtype: str
    num_rows: int

    def row_bytes(self) -> int:
        """Bytes that one row of all tensors takes."""
        return sum(torch.Size(shape).numel() for shape in self.shapes) * DTYPES[self.dtype].itemsize

    def file_bytes(self, index: int) -> int:
        """Bytes that the file of one tensor takes.

        Args:
            index: Number of the tensor.
        """
        return torch.Size(self.shapes[index]).numel() * DTYPES[self.dtype].itemsize * self.num_rows

    @classmethod
    def from_dict(cls, values: Any) -> FeatureLayout:
        """The layout that an index holds.

        Args:
            values: Plain data, as it was read.

        Raises:
            FeatureCacheError: it is none that could have been written.

        Example:
            >>> FeatureLayout.from_dict({"shapes": [[8, 6, 6]], "dtype": "float16", "num_rows": 10}).row_bytes()
            576
            >>> FeatureLayout.from_dict({"shapes": [["8"]], "dtype": "float16", "num_rows": 10})
            Traceback (most recent call last):
            ...
            ciao_peft.errors.FeatureCacheError: its shapes are [['8']]
        """
        entries = values if isinstance(values, dict) else {}
        shapes, dtype, num_rows = (entries.get(name) for name in ("shapes", "dtype", "num_rows"))
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise FeatureCacheError(f"its dtype is {shortened(repr(dtype), 80)}")
        if not isinstance(num_rows, int) or not is_number(num_rows, int, 1, _LARGEST_STORE):
            raise FeatureCacheError(f"its number of rows is {shortened(repr(num_rows), 80)}")
        if (
            not isinstance(shapes, list)
            or len(shapes) > _MOST_TENSORS
            or not all(
                isinstance(shape, list)
                and len(shape) <= _MOST_DIMENSIONS
                and all(is_number(size, int, 0, _LARGEST_ROW) for size in shape)
                and math.prod(shape) * DTYPES[dtype].itemsize <= _LARGEST_ROW
                for shape in shapes
            )
        ):
            raise FeatureCacheError(f"its shapes are {shortened(repr(shapes), 80)}")
        return cls(tuple(tuple(shape) for shape in shapes), dtype, num_rows)

    def to_dict(self) -> dict[str, Any]:
        """The layout as plain data, for the index."""
        return {"shapes": [list(shape) for shape in self.shapes], "dtype": self.dtype, "num_rows": self.num_rows}


def tensor_file(folder: Path, index: int) -> Path:
    """The path of the file with tensor number `index`.

    Example:
        >>> tensor_file(Path("stored"), 0).as_posix()
        'stored/features.0.bin'
    """
    return folder / f"features.{index}.bin"


def consecutive_runs(rows: Sequence[int]) -> Iterator[slice]:
    """Finds the parts of a batch whose row numbers follow one another.

    Args:
        rows: Numbers of rows, in ascending order.

    Yields:
        Slices into `rows`, each as long as possible; none where there are no rows.

    Example:
        >>> list(consecutive_runs([3, 4, 7]))
        [slice(0, 2, None), slice(2, 3, None)]
    """
    starts = (place for place in range(len(rows)) if not place or rows[place] != rows[place - 1] + 1)
    yield from (slice(first, last) for first, last in pairwise([*starts, len(rows)]))


def map_tensors(folder: Path, layout: FeatureLayout) -> tuple[Tensor, ...]:
    """Maps the tensors of a complete folder into memory. Writing to them changes no file.

    Args:
        folder: Holds `features.<n>.bin`.
        layout: Shapes, dtype and number of the rows.

    Returns:
        One tensor `(num_rows, ...)` for each shape of the layout.
    """
    tensors: list[Tensor] = []
    for index, shape in enumerate(layout.shapes):
        count = layout.num_rows * torch.Size(shape).numel()
        flat = torch.from_file(str(tensor_file(folder, index)), shared=False, size=count, dtype=DTYPES[layout.dtype])
        tensors.append(flat.view(layout.num_rows, *shape))
    return tuple(tensors)


def map_file(path: Path, size: int) -> mmap.mmap:
    """Maps a file into memory for reading here and there; writing to the map changes no file.

    It may be larger than memory and swap: room for what nobody writes is not set aside.

    Args:
        path: The file.
        size: Its bytes, 1 or more.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "features.0.bin")
        >>> with path.open("wb") as file:
        ...     file.truncate(2**42)  # of zeros, which take no disk
        4398046511104
        >>> map_file(path, 2**42)[2**41]
        0
    """
    how: dict[str, int] = {"access": mmap.ACCESS_COPY}
    if sys.platform == "linux":
        how = {"flags": mmap.MAP_PRIVATE | _NO_RESERVE, "prot": mmap.PROT_READ | mmap.PROT_WRITE}
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), size, **how)
    if hasattr(mapped, "madvise") and hasattr(mmap, "MADV_RANDOM"):
        mapped.madvise(mmap.MADV_RANDOM)
    return mapped


class MappedRows:
    """The tensors of a complete folder, mapped into memory for reading rows here and there.

    The system reads no more of the files than these rows: it would read megabytes around each one otherwise, as if what
    follows were asked for next.

    Args:
        folder: Holds `features.<n>.bin`.
        layout: Shapes, dtype and number of the rows.

    Attributes:
        tensors: One `(num_rows, ...)` for each shape of the layout.

    Shapes:
        Rows are `(B, ...)` each, with the rest of their shapes from the layout.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = tensor_file(folder, 0).write_bytes(torch.arange(6.0).numpy().tobytes())
        >>> mapped = MappedRows(folder, FeatureLayout(((2,),), "float32", num_rows=3))
        >>> mapped.read(torch.tensor([2, 0]), [0])[0].tolist()
        [[4.0, 5.0], [0.0, 1.0]]
    """

    def __init__(self, folder: Path, layout: FeatureLayout):
        self._maps: list[mmap.mmap | None] = []
        tensors: list[Tensor] = []
        for index, shape in enumerate(layout.shapes):
            mapped, flat = None, torch.empty(0, dtype=DTYPES[layout.dtype], device="cpu")
            if layout.file_bytes(index):
                mapped = map_file(tensor_file(folder, index), layout.file_bytes(index))
                flat = torch.frombuffer(mapped, dtype=DTYPES[layout.dtype])
            self._maps.append(mapped)
            tensors.append(flat.view(layout.num_rows, *shape))
        self.tensors = tuple(tensors)
        self._from_disk = False
        self._read_before = _blocks_read()

    def read(self, rows: Tensor, places: Sequence[int]) -> tuple[Tensor, ...]:
        """Copies rows.

        Args:
            rows: Their numbers, `(B,)` int64.
            places: Which tensors of the layout are read of each.

        Returns:
            Tensors `(B, ...)`.
        """
        if self._from_disk:
            numbers = rows.tolist()
            for index in places:
                self._fetch(index, numbers)
        read = tuple(self.tensors[index].index_select(0, rows) for index in places)
        # Where the last rows came from the disk, the next ones are likely to. In memory, asking would cost more than
        # reading does.
        blocks = _blocks_read()
        self._from_disk = blocks[0] == self._read_before[0] and blocks[1] > self._read_before[1]
        self._read_before = blocks
        return read

    def _fetch(self, index: int, rows: Sequence[int]) -> None:
        """Asks the system for rows all at once, so that the disk is not waited for page by page."""
        mapped = self._maps[index]
        if mapped is None or not hasattr(mapped, "madvise") or not hasattr(mmap, "MADV_WILLNEED"):
            return
        size, numbers = len(mapped) // len(self.tensors[index]), sorted(set(rows))
        for run in consecutive_runs(numbers):
            start = numbers[run.start] * size // mmap.PAGESIZE * mmap.PAGESIZE
            end = (numbers[run.stop - 1] + 1) * size
            with contextlib.suppress(OSError):  # it is advice
                mapped.madvise(mmap.MADV_WILLNEED, start, end - start)


def _blocks_read() -> tuple[int, int]:
    """This thread, and how much it has read from disks so far, where the system tells."""
    if resource is None or not hasattr(resource, "RUSAGE_THREAD"):
        return 0, 0
    return threading.get_ident(), resource.getrusage(resource.RUSAGE_THREAD).ru_inblock


def open_to_fill(path: Path) -> BinaryIO:
    """Opens a file of an interrupted folder; never what a link leads to, which could be anybody's.

    Args:
        path: The file.

    Raises:
        FeatureCacheError: it is a link, or cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    except OSError as error:
        reason = "it is a link" if path.is_symlink() else error.strerror
        raise FeatureCacheError(
            f"'{path}' cannot be filled: {reason}. Delete its folder, or give another one."
        ) from None
    return os.fdopen(handle, "r+b")


def make_file(path: Path, size: int) -> None:
    """Makes a file of zeros, and claims its room where the system can; what was there is gone.

    Args:
        path: The file.
        size: Bytes.

    Raises:
        OSError: the disk is full, or refuses.

    Example:
        >>> import tempfile
        >>> make_file(Path(tempfile.mkdtemp(), "features.0.bin"), 12)
    """
    path.unlink(missing_ok=True)  # what a link leads to is not ours
    with path.open("xb") as file:
        if hasattr(os, "posix_fallocate"):
            try:
                # Claims the room now, so that no write can fail for lack of it.
                os.posix_fallocate(file.fileno(), 0, size)
                return
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise
        file.truncate(size)  # not every file system can


def file_size(path: Path) -> int | None:
    """Bytes of a regular file, or what a link to one leads to; None where there is none, but a folder or a pipe, say.

    Example:
        >>> file_size(Path("not/there")) is None
        True
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def readable_size(num_bytes: float) -> str:
    """Writes a number of bytes with three digits, in B, kB, MB, GB or TB.

    Example:
        >>> readable_size(1_234_000_000)
        '1.23 GB'
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if num_bytes < 999.5 or unit == "TB":
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    raise AssertionError


def free_memory() -> float:
    """Bytes of main memory that are available without swapping; infinite where the system does not tell.

    Example:
        >>> free_memory() > 0
        True
    """
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return float("inf")


def free_disk(folder: Path) -> int:
    """Bytes that are free on the disk of a folder, which need not exist yet.

    Example:
        >>> free_disk(Path("not/yet/made")) > 0
        True
    """
    existing = folder.resolve()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free
