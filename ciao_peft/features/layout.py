"""Shapes and sizes of stored features: what the files hold, how many bytes that takes, and how many are free."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "DTYPES",
    "FeatureLayout",
    "free_disk",
    "free_memory",
    "map_tensors",
    "readable_size",
    "tensor_file",
]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes in which features can be stored, by name."""


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
