"""A training split dealt into parts that are held out in turn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...data import hold_out, stratified_folds
from ...errors import DataError, quoted
from ..data import FoldFaces, LoadedTask


@dataclass(frozen=True)
class DealtTask(LoadedTask):
    """A task whose held-out parts do not overlap: a training is scored on the part whose number is its seed.

    Args:
        task, folds, labels, metric, fingerprint, notes: As of `LoadedTask`.
        num_parts: Into which the training split is dealt.
    """

    num_parts: int = 3

    @cached_property
    def parts(self) -> list[np.ndarray[Any, Any]]:
        """Row numbers of each part."""
        return deal(self.folds[0].train, self.num_parts, self.task.group_by or self.task.average_by)

    def held_out(
        self, fold: FoldFaces, fraction: float, seed: int, rows: Sequence[int] | None = None
    ) -> tuple[list[int], list[int]]:
        """Row numbers of the other parts, and those of the part whose number is the seed."""
        held = self.parts[seed]
        return np.setdiff1d(np.arange(len(fold.train)), held).tolist(), held.tolist()


def dealt(loaded: LoadedTask, num_parts: int) -> DealtTask:
    """A loaded task with its training split dealt.

    Args:
        loaded: With a training split.
        num_parts: Of it.

    Raises:
        DataError: there are fewer groups, or rows, than parts.
    """
    values = {name: getattr(loaded, name) for name in ("task", "folds", "labels", "metric", "fingerprint", "notes")}
    task = DealtTask(**values, num_parts=num_parts)
    assert task.parts  # dealt at once, so that what cannot be is told before anything is stored
    return task


def check_choice(loaded: LoadedTask) -> None:
    """Refuses a training split on which all candidates would do alike.

    Args:
        loaded: With a training split.

    Raises:
        DataError: all labels are the same, or fewer than two classes have two pictures.
    """
    from datasets import ClassLabel

    faces = loaded.folds[0].train
    labels = np.asarray(faces["label"])
    name = quoted(loaded.task.name)
    if len(labels) and (labels == labels[0]).all():
        one = loaded.labels.names[int(labels[0])] if labels.ndim == 1 and labels.dtype.kind == "i" else labels[0]
        raise DataError(
            f"All {len(labels)} pictures of the training split of {name} have the label {quoted(str(one))}: there is "
            "nothing to tell apart. Give a folder or a column with two classes or more."
        )
    if isinstance((faces.features or {}).get("label"), ClassLabel):
        counts = Counter(labels.tolist())
        enough = [loaded.labels.names[label] for label, count in counts.items() if count > 1]
        if len(enough) < 2:
            raise DataError(
                f"{len(enough)} of the {len(counts)} classes of {name} have two training pictures or more, and two "
                "have to: a class is trained on in some parts and scored in another. Add pictures, or join classes."
            )


FEW_GROUPS = 10
"""Groups for each part below which the largest ones are dealt first: at random, parts would differ much in size."""


def deal(faces: Any, num_parts: int, group_by: str | None) -> list[np.ndarray[Any, Any]]:
    """Row numbers of parts of about equal size: no group is in two of them, or else every class is in proportion.

    Args:
        faces: One split.
        num_parts: 2 or more.
        group_by: The column that says which rows belong together; rows are dealt by class, or singly, when left out.

    Raises:
        DataError: there are fewer groups, or rows, than parts.

    Example:
        >>> from datasets import ClassLabel, Dataset, Features, Value
        >>> columns = Features({"label": ClassLabel(names=["a", "b"]), "identity": Value("string")})
        >>> faces = Dataset.from_dict({"label": [0, 0, 0, 1, 1, 1], "identity": list("xxyyzz")}, features=columns)
        >>> sorted(sorted(faces[int(row)]["label"] for row in part) for part in deal(faces, 3, None))
        [[0, 1], [0, 1], [0, 1]]
        >>> [part.tolist() for part in deal(faces, 3, "identity")]
        [[0, 1], [2, 3], [4, 5]]
    """
    from datasets import ClassLabel, Dataset

    if group_by is None and isinstance((faces.features or {}).get("label"), ClassLabel):
        return [np.flatnonzero(held) for _, held in stratified_folds(faces, num_parts)]
    who = [None] * len(faces) if group_by is None else list(faces[group_by])
    keys = [("row", row) if group is None else ("group", group) for row, group in enumerate(who)]
    sizes = Counter(keys)
    if len(sizes) < num_parts:
        what = "pictures" if group_by is None else f"different values of {group_by!r}"
        raise DataError(
            f"The training split has {len(sizes)} {what}, and {num_parts} parts that are held out in turn need as many "
            "or more. Name fewer parts, another column of groups, or none."
        )
    if len(sizes) < FEW_GROUPS * num_parts:
        return _largest_first(keys, sizes, num_parts)
    rest, parts = Dataset.from_dict({"row": list(range(len(faces))), "group": who}), []
    for left in range(num_parts, 1, -1):
        rest, held = hold_out(rest, 1 / left, "group", seed=0)
        parts.append(np.array(held["row"], dtype=np.int64))
    return [*parts, np.array(rest["row"], dtype=np.int64)]


def _largest_first(keys: Sequence[Any], sizes: Counter[Any], num_parts: int) -> list[np.ndarray[Any, Any]]:
    """Every group goes to the part with the fewest rows so far."""
    part_of: dict[Any, int] = {}
    counts = [0] * num_parts
    for key, size in sizes.most_common():
        part_of[key] = counts.index(min(counts))
        counts[part_of[key]] += size
    numbers = np.array([part_of[key] for key in keys])
    return [np.flatnonzero(numbers == part) for part in range(num_parts)]
