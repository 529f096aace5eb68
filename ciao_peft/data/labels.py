"""The labels of a dataset: the kind of problem they pose, and their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

__all__ = ["LabelSet", "describe_labels", "label_set", "labels_of"]

_LINE = re.compile(r"^Labels \((\w+)\): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class LabelSet:
    """The labels of one dataset; `CIAOConfig(**labels.as_config())` makes a config for them.

    Args:
        problem_type: `"single_label_classification"`, `"regression"` or `"multi_label_classification"`.
        names: The name of each class, regressed value or label, in the order of its index.

    Example:
        >>> LabelSet("regression", ("arousal", "valence")).as_config()
        {'problem_type': 'regression', 'num_labels': 2, 'id2label': {0: 'arousal', 1: 'valence'}}
    """

    problem_type: str
    names: tuple[str, ...]

    def as_config(self) -> dict[str, Any]:
        """The three settings of `CIAOConfig` that follow from the labels: problem type, number and names."""
        return {
            "problem_type": self.problem_type,
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
        }

    def line(self) -> str:
        """The line of a dataset's description that keeps the names, since a list of numbers has none.

        Example:
            >>> LabelSet("regression", ("arousal", "valence")).line()
            'Labels (regression): arousal, valence'
        """
        return f"Labels ({self.problem_type}): {', '.join(self.names)}"


def describe_labels(text: str, problem_type: str, names: Sequence[str]) -> str:
    """Writes the labels into a dataset's description, where `labels_of` finds them.

    Args:
        text: The description; labels that it has already are replaced.
        problem_type: One of the three of `CIAOConfig`.
        names: The name of each class, value or label.

    Example:
        >>> print(describe_labels("Painted faces.", "regression", ["arousal", "valence"]))
        Painted faces.
        Labels (regression): arousal, valence
    """
    return f"{_LINE.sub('', text).strip()}\n{LabelSet(problem_type, tuple(names)).line()}"


def label_set(faces: Dataset | IterableDataset, column: str) -> LabelSet | None:
    """The named labels of a column, by its feature and the dataset's description; no row is read.

    Args:
        faces: One split.
        column: Name of the column with the labels.

    Returns:
        The labels, or None where nothing names them.

    Example:
        >>> from datasets import ClassLabel, Dataset, Features
        >>> moods = Features({"label": ClassLabel(names=["calm", "glad"])})
        >>> faces = Dataset.from_dict({"label": [1, 0]}, features=moods).add_column("age", [30, 40])
        >>> label_set(faces, "label").names, label_set(faces, "age")
        (('calm', 'glad'), None)
    """
    feature = (faces.features or {}).get(column)
    names = getattr(feature, "names", None)
    if names is not None:
        return LabelSet("single_label_classification", tuple(names))
    length = getattr(feature, "length", None)
    if length is not None and (line := _LINE.search(faces.info.description or "")):
        names = tuple(line[2].split(", "))
        if length in (-1, len(names)):
            return LabelSet(line[1], names)
    return None


def labels_of(faces: Dataset | IterableDataset, column: str = "label") -> LabelSet:
    """Tells which problem the labels of a dataset pose, and what they are called.

    Classes are read from the column's feature, other labels from the description. Lists of numbers in a dataset that
    did not come from `load_faces` are taken for a regression with unnamed values or, if they are whole numbers, for
    several labels at once.

    Args:
        faces: One split.
        column: Name of the column with the labels.

    Raises:
        DataError: there is no such column, or it holds something else than labels.

    Example:
        >>> from datasets import ClassLabel, Dataset, Features
        >>> moods = Features({"label": ClassLabel(names=["calm", "glad"])})
        >>> labels_of(Dataset.from_dict({"label": [1, 0]}, features=moods))
        LabelSet(problem_type='single_label_classification', names=('calm', 'glad'))
    """
    from datasets import List, Value

    features = faces.features or {}
    if column not in features:
        raise DataError(
            f"There is no column {column!r} with labels. Columns: {', '.join(map(repr, features)) or 'none'}."
        )
    feature = features[column]
    if (named := label_set(faces, column)) is not None:
        return named
    if isinstance(feature, List) and isinstance(feature.feature, Value):
        length = feature.length if feature.length > 0 else len(next(iter(faces))[column])
        whole = "int" in feature.feature.dtype or feature.feature.dtype == "bool"
        problem_type = "multi_label_classification" if whole else "regression"
        return LabelSet(problem_type, tuple(f"LABEL_{index}" for index in range(length)))
    if isinstance(feature, Value) and feature.dtype.startswith("float"):
        return LabelSet("regression", ("LABEL_0",))
    raise DataError(
        f"The column {column!r} holds {feature}, which says nothing about its classes. "
        f"Make it a ClassLabel with `dataset.class_encode_column({column!r})`, or a list of numbers."
    )
