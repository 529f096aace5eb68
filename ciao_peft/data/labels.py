"""What the labels of a dataset mean: the kind of problem they pose, and their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

_LINE = re.compile(r"^Labels \((\w+)\): (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class LabelSet:
    """The labels of one dataset, as a config wants them: `CIAOConfig(**labels.as_config())`.

    Args:
        problem_type: One of the three of `CIAOConfig`.
        names: Of each class, value or label, by its index.

    Example:
        >>> LabelSet("regression", ("arousal", "valence")).as_config()
        {'problem_type': 'regression', 'num_labels': 2, 'id2label': {0: 'arousal', 1: 'valence'}}
    """

    problem_type: str
    names: tuple[str, ...]

    def as_config(self) -> dict:
        """The three settings of `CIAOConfig` that follow from the labels."""
        return {
            "problem_type": self.problem_type,
            "num_labels": len(self.names),
            "id2label": dict(enumerate(self.names)),
        }

    def line(self) -> str:
        """How a dataset's description carries them: a list of numbers has no names of its own."""
        return f"Labels ({self.problem_type}): {', '.join(self.names)}"


def described(text: str, problem_type: str, names: Sequence[str]) -> str:
    """A dataset's description with its labels, for `labels_of` to find."""
    return f"{_LINE.sub('', text).strip()}\n{LabelSet(problem_type, tuple(names)).line()}"


def labels_of(faces: Dataset | IterableDataset, column: str = "label") -> LabelSet:
    """Which problem a dataset's labels pose, and what they are called.

    Read from the feature for classes, and from the description otherwise. A dataset that did not come from
    `load_faces` and has lists as labels is taken for a regression with unnamed values, or, when they are whole numbers,
    for several labels at once.

    Args:
        faces: One split.
        column: Where its labels are.

    Raises:
        DataError: there is no such column, or it holds something else than labels.

    Example:
        >>> from datasets import ClassLabel, Dataset, Features
        >>> moods = Features({"label": ClassLabel(names=["calm", "glad"])})
        >>> labels_of(Dataset.from_dict({"label": [1, 0]}, features=moods))
        LabelSet(problem_type='single_label_classification', names=('calm', 'glad'))
    """
    from datasets import ClassLabel, List, Value

    features = faces.features or {}
    if column not in features:
        raise DataError(
            f"There is no column {column!r} with labels. Columns: {', '.join(map(repr, features)) or 'none'}."
        )
    feature = features[column]
    if isinstance(feature, ClassLabel):
        return LabelSet("single_label_classification", tuple(feature.names))
    if (found := _LINE.search(faces.info.description or "")) and isinstance(feature, List):
        names = tuple(found[2].split(", "))
        if feature.length in (-1, len(names)):
            return LabelSet(found[1], names)
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
