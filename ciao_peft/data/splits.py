"""Splits a dataset in two and keeps people apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import numpy as np

from ..errors import DataError, listed

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["hold_out"]


def hold_out(
    faces: Dataset | DatasetDict, fraction: float = 0.1, group_by: str | None = "identity", seed: int = 0
) -> tuple[Dataset, Dataset]:
    """Splits a dataset in two so that no group is in both parts: a face seen in training cannot test a model.

    Groups are taken in random order until the second part has its share of the rows, so a large group can make it
    somewhat larger. Each row without a group (`None`) is a group of its own.

    Args:
        faces: The rows to split; of several splits, as `load_faces` returns them, those of `train`.
        fraction: Share of the rows for the second part, above 0 and below 1.
        group_by: Name of the column that says which rows belong together; `None` to split row by row.
        seed: Another seed holds out other groups.

    Returns:
        The remaining part and the part held out, each with its rows in their old order.

    Raises:
        DataError: several splits without `train` are given, there is no such column, the fraction is out of range, or
            there are fewer than two groups.

    Example:
        >>> from datasets import Dataset
        >>> faces = Dataset.from_dict({"identity": ["ann", "ann", "bob", "bob", "cem", "cem"]})
        >>> train, validation = hold_out(faces, fraction=0.3)
        >>> len(train), len(validation), set(train["identity"]) & set(validation["identity"])
        (4, 2, set())
    """
    if not 0 < fraction < 1:
        raise DataError(f"`fraction` must lie between 0 and 1; got {fraction!r}.")
    if isinstance(faces, Mapping):
        if "train" not in faces:
            raise DataError(
                f"`faces` is several splits ({listed(faces)}) and none of them is 'train'; give one of them, such as "
                f"`hold_out(faces[{next(iter(faces), 'train')!r}], {fraction})`."
            )
        faces = cast("Dataset", faces["train"])
    if group_by is not None and group_by not in faces.column_names:
        raise DataError(
            f"There is no column {group_by!r} to group by. Columns: {', '.join(map(repr, faces.column_names))}. "
            "Name another one with `group_by`, or split row by row with `group_by=None`."
        )
    column = [None] * len(faces) if group_by is None else list(faces[group_by])
    keys = [("row", row) if value is None else ("group", value) for row, value in enumerate(column)]
    numbers: dict[object, int] = {}
    group = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    if len(numbers) < 2:
        raise DataError(f"Nothing can be held out of {len(numbers)} group(s) of {group_by!r} in {len(faces)} rows.")
    sizes = np.bincount(group)
    order = np.random.default_rng(seed).permutation(len(sizes))
    num_held = fraction * len(faces)
    before = np.concatenate([[0], np.cumsum(sizes[order])[:-1]])
    held_groups = order[before < num_held][: len(sizes) - 1]  # at least one group stays
    held = np.isin(group, held_groups)
    return faces.select(np.flatnonzero(~held)), faces.select(np.flatnonzero(held))
