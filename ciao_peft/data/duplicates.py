"""Faces that are in two splits: identical pictures, and people."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..door import read_file
from ..errors import DataError
from ..preprocessing.pictures import MAX_PICTURE_BYTES

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["Shared", "drop_duplicate_pictures", "picture_hashes", "shared_between_splits"]

_LAST_FIRST = ("test", "validation", "train")


def picture_hashes(faces: Dataset, column: str = "image") -> np.ndarray:
    """A hash of every stored picture; equal for files that are equal byte by byte.

    Reads the files of pictures that are kept as paths, and decodes none.

    Args:
        faces: One split.
        column: Name of the column with the pictures.

    Returns:
        `(rows,)` of 16 bytes each (NumPy's `S16`).

    Example:
        >>> from datasets import Dataset, Features, Image
        >>> pictures = [{"bytes": content, "path": None} for content in (b"one", b"two", b"one")]
        >>> faces = Dataset.from_dict({"image": pictures}, features=Features({"image": Image()}))
        >>> first, second, third = picture_hashes(faces)
        >>> first == third, first == second
        (True, False)
    """
    from datasets import Image

    stored = faces.select_columns([column]).cast_column(column, Image(decode=False))
    hashes: list[bytes] = []
    for row in range(len(stored)):
        picture: dict[str, Any] = stored[row][column]
        content = picture["bytes"]
        if content is None:
            content = read_file(picture["path"], MAX_PICTURE_BYTES, error=DataError)
        hashes.append(hashlib.blake2b(content, digest_size=16).digest())
    return np.array(hashes, dtype="S16") if hashes else np.empty(0, dtype="S16")


@dataclass(frozen=True)
class Shared:
    """What two splits have in common.

    Args:
        first: Name of the one split.
        second: Name of the other one.
        kind: `"pictures"` or a column's name.
        count: How many pictures or people are in both.
        rows: Rows of `second` that they fill.
        total: All rows of `second`.

    Example:
        >>> print(Shared("train", "test", "identity", count=1, rows=2, total=5))
        1 identities are in both train and test (2 of 5 rows of test)
    """

    first: str
    second: str
    kind: str
    count: int
    rows: int
    total: int

    def __str__(self) -> str:
        what = {"pictures": "identical pictures", "identity": "identities"}.get(self.kind, f"values of {self.kind!r}")
        rows = f"{self.rows} of {self.total} rows of {self.second}"
        return f"{self.count} {what} are in both {self.first} and {self.second} ({rows})"


def shared_between_splits(faces: DatasetDict, column: str | None = None) -> list[Shared]:
    """What every two splits share: identical pictures, or the values of a column such as `identity`.

    Args:
        faces: Two splits or more.
        column: Compare this column instead of the pictures; rows without a value do not count.

    Returns:
        One entry per pair of splits that share something.

    Example:
        >>> from datasets import Dataset, DatasetDict
        >>> people = {"train": ["ann", "bea"], "test": ["bea", "bea", "cem"]}
        >>> faces = DatasetDict({split: Dataset.from_dict({"identity": names}) for split, names in people.items()})
        >>> [(shared.count, shared.rows) for shared in shared_between_splits(faces, "identity")]
        [(1, 2)]
    """
    keys = {name: _keys(split, column) for name, split in faces.items()}
    names = [name for name in reversed(_LAST_FIRST) if name in keys]
    overlaps: list[Shared] = []
    for index, first in enumerate(names):
        for second in names[index + 1 :]:
            if both := set(keys[first]) & set(keys[second]) - {None}:
                rows = sum(key in both for key in keys[second])
                overlaps.append(Shared(first, second, column or "pictures", len(both), rows, len(keys[second])))
    return overlaps


def drop_duplicate_pictures(faces: DatasetDict) -> tuple[DatasetDict, dict[str, int]]:
    """Removes pictures from where they do harm, and leaves the test set as published.

    `train` loses pictures that are also in `validation` or `test`, and second copies; `validation` loses those that are
    also in `test`.

    Args:
        faces: Splits called `train`, `validation` and `test`, or some of these.

    Returns:
        The splits, and how many rows each lost.

    Raises:
        DataError: a split has another name, or no training picture is left.

    Example:
        >>> from datasets import Dataset, DatasetDict, Features, Image
        >>> def split(*contents):
        ...     pictures = [{"bytes": content, "path": None} for content in contents]
        ...     return Dataset.from_dict({"image": pictures}, features=Features({"image": Image()}))
        >>> faces = DatasetDict(train=split(b"one", b"one", b"two"), test=split(b"two"))
        >>> drop_duplicate_pictures(faces)[1] == {"train": 2, "test": 0}
        True
    """
    from datasets import DatasetDict

    kept: dict[str, Dataset] = {}
    lost: dict[str, int] = {}
    seen: set[bytes] = set()
    unknown = [name for name in faces if name not in _LAST_FIRST]
    if unknown:
        raise DataError(f"Splits are called {', '.join(map(repr, _LAST_FIRST))}; there is {unknown[0]!r}.")
    for name in _LAST_FIRST:
        if name not in faces:
            continue
        hashes = picture_hashes(faces[name]).tolist()
        keep = []
        inside: set[bytes] = set()
        for row, key in enumerate(hashes):
            if key not in seen and not (name == "train" and key in inside):
                keep.append(row)
            inside.add(key)
        seen |= inside
        kept[name], lost[name] = faces[name].select(keep), len(hashes) - len(keep)
    if "train" in kept and not len(kept["train"]):
        raise DataError("No training picture is left once those of the other splits are dropped.")
    return DatasetDict({str(name): kept[str(name)] for name in faces}), lost


def _keys(split: Dataset, column: str | None) -> list[Any]:
    return picture_hashes(split).tolist() if column is None else list(split[column])
