"""Reads the labels of one world as those of another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..errors import DataError, listed
from .expressions import label_mapping
from .labels import label_set

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["map_labels"]


def map_labels(
    faces: Dataset, target: Sequence[str], names: Mapping[str, str | None] | None = None, column: str = "label"
) -> tuple[Dataset, dict[str, int]]:
    """Gives faces the classes of another world, so that an adapter of that world can be tested on them.

    Labels that mean the same expression are the same, whatever their grammar and their ids (`label_mapping`). Rows
    whose label means nothing in the other world are left out, and counted: how often they occur is no question to that
    adapter.

    Args:
        faces: One split with one class per row.
        target: Names of the other world's classes, such as `list(config.id2label.values())`.
        names: What is not the same by name, `{"joyful": "happiness"}`; `None` in place of a name leaves a class out.
        column: Name of the column with the labels.

    Returns:
        The rows that are left, `column` a `ClassLabel` of `target`; and how many rows of which class were left out.

    Raises:
        DataError: the column has no named classes, a name in `names` is unknown, or no class has a counterpart.

    Example:
        >>> from datasets import ClassLabel, Dataset, Features
        >>> moods = Features({"label": ClassLabel(names=["angry", "bored", "happy"])})
        >>> faces = Dataset.from_dict({"label": [0, 1, 2, 2]}, features=moods)
        >>> mapped, lost = map_labels(faces, ["happiness", "anger"])
        >>> mapped["label"][:], mapped.features["label"].names, lost
        ([1, 0, 0], ['happiness', 'anger'], {'bored': 1})
    """
    from datasets import ClassLabel

    labels = label_set(faces, column)
    if (
        labels is None
        or labels.problem_type != "single_label_classification"
        or hasattr(faces.features[column], "length")
    ):
        raise DataError(
            f"Labels can be mapped where each row has one named class; the column {column!r} holds "
            f"{faces.features.get(column)}. A list of values is joined by the names of its values."
        )
    places = label_mapping(labels.names, target, names)
    if all(place is None for place in places):
        raise DataError(
            f"No class of {listed(labels.names)} means one of {listed(target)}. Say which is which with `names`, such "
            f"as {{{labels.names[0]!r}: {target[0]!r}}}."
        )
    ids = faces[column][:]
    kept = [row for row, label in enumerate(ids) if label >= 0 and places[label] is not None]
    lost = Counter(labels.names[label] if label >= 0 else "no label" for label in ids) - Counter(
        labels.names[ids[row]] for row in kept
    )
    feature = ClassLabel(names=list(target))
    new = [places[ids[row]] for row in kept]
    mapped = faces.select(kept).add_column(f"mapped {column}", new, feature=feature)
    mapped = mapped.remove_columns(column).rename_column(f"mapped {column}", column)
    return mapped, dict(lost)
