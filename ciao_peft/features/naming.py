"""Labels of a dataset as the ids of an adapter: joined by name where both sides have names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn, cast

import torch
from torch import Tensor

from ..config import CIAOConfig
from ..data.expressions import label_mapping
from ..errors import CIAOError, DataError, InputError, TrainingError, listed, shortened
from ..labels import check_labels

__all__ = ["are_names", "check_labels_of", "labels_by_name"]

_DEFAULT = re.compile(r"LABEL_\d+")


def are_names(names: Sequence[str] | None) -> bool:
    """Whether labels have names of their own: not none at all, and not the `LABEL_0`, `LABEL_1` of a bare config.

    Example:
        >>> are_names(["calm", "glad"]), are_names(["LABEL_0", "LABEL_1"]), are_names(None)
        (True, False, False)
    """
    return names is not None and not all(_DEFAULT.fullmatch(name) for name in names)


def labels_by_name(labels: Tensor, names: Sequence[str] | None, config: CIAOConfig, name: str) -> Tensor:
    """Renumbers the labels of a dataset, so that each means in the adapter what its name means in the dataset.

    Where one side has no names, labels stay as they are: they mean the same by their position. Classes that the adapter
    knows and the dataset lacks are no matter; of regressed values and of labels that are 0 or 1, both sides must have
    all.

    Args:
        labels: `(N,)` class ids, or `(N, L)` values, labels or distributions, in the dataset's order.
        names: Names of the dataset's classes, values or labels, in the order of its ids, or None.
        config: Config of the adapter; gives `problem_type` and `id2label`.
        name: Name of the dataset in messages.

    Returns:
        `(N,)` or `(N, num_labels)`, in the adapter's order.

    Raises:
        TrainingError: a name occurs on one side only, so that its labels mean nothing to the other.
        InputError: a class id has no name.

    Example:
        >>> moods = {0: "angry", 1: "bored", 2: "calm"}
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=3, id2label=moods)
        >>> labels_by_name(torch.tensor([0, 1, 1]), ["calm", "angry"], config, "the faces")
        tensor([2, 0, 0])
    """
    expected = list(config.id2label.values())
    if names is None or not are_names(names) or not are_names(expected) or list(names) == expected:
        return labels
    if labels.ndim > 1 and labels.shape[1] != len(names):
        return labels  # `check_labels` says what is wrong with them
    unknown = [label for label in names if label not in expected]
    rows_of_all = config.problem_type != "single_label_classification"
    absent = [label for label in expected if label not in names] if rows_of_all else []
    if unknown or absent:
        _refuse(names, expected, unknown, absent, name)
    places = torch.tensor([expected.index(label) for label in names], device=labels.device)
    if labels.ndim > 1:
        return labels.new_zeros(len(labels), len(expected)).index_copy(1, places, labels)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        return labels
    ids = labels.long()
    known = (ids >= 0) & (ids < len(names))
    if not bool(known.all()):
        row = int((~known).nonzero()[0, 0])
        raise InputError(
            f"The labels of {name}: class ids run from 0 to {len(names) - 1} ({_in_order(names)}); got "
            f"{int(ids[row])} at row {row}."
        )
    return places[ids]


def check_labels_of(data: Any, config: CIAOConfig, name: str) -> Tensor:
    """Reads the labels of a dataset as an adapter with this config numbers them.

    Labels are joined by name where both sides have names (`labels_by_name`), by position otherwise.

    Args:
        data: `Samples` or a `FeatureDataset`.
        config: The config of the adapter.
        name: Name of the dataset in messages.

    Returns:
        One row per sample, in the adapter's order: `(N,)` class ids, or `(N, L)` values, labels or distributions.

    Raises:
        TrainingError: there are no labels, or the adapter does not know their names.
        InputError: a label is out of range or not finite; says in which row.

    Example:
        >>> from ciao_peft.features import Samples
        >>> faces = [{"pixel_values": torch.rand(3, 8, 8), "labels": n} for n in range(2)]
        >>> config = CIAOConfig(problem_type="single_label_classification", num_labels=2)
        >>> check_labels_of(Samples(faces, None), config, "the faces")
        tensor([0, 1])
    """
    given: Any = data.labels
    labels = cast("Tensor | None", given() if callable(given) else given)
    if labels is None:
        raise TrainingError(f"{name} has no labels: a sample needs 'labels' or 'label' with its pixels.")
    labels = labels_by_name(labels, data.label_names, config, name)
    try:
        return check_labels(labels, config)
    except CIAOError as error:
        raise type(error)(f"The labels of {name}: {error}") from error


def _refuse(
    names: Sequence[str], expected: Sequence[str], unknown: Sequence[str], absent: Sequence[str], name: str
) -> NoReturn:
    lacks = f"the adapter does not know {listed(unknown)}" if unknown else f"{name} lacks {listed(absent)}"
    try:
        same = [
            f"{label!r} as {expected[place]!r}"
            for label, place in zip(names, label_mapping(names, expected), strict=True)
            if place is not None and label in unknown
        ]
    except DataError:  # two of the adapter's labels mean the same expression
        same = []
    raise TrainingError(
        f"{name} and the adapter name their labels differently: {lacks}. {name} has {_in_order(names)}; the adapter "
        f"has {_in_order(expected)}. Labels are joined by name, never by position. "
        f"`ciao_peft.data.label_mapping(names, list(config.id2label.values()))` gives the adapter's id for "
        f"each of the dataset's{', with ' + ', '.join(same) if same else ''}, and None where there is none: map the "
        "column with it, drop the rows without an id, and cast it to "
        "`ClassLabel(names=list(config.id2label.values()))`. Without a label column, `predict` needs no names."
    )


def _in_order(names: Sequence[str]) -> str:
    return shortened(", ".join(map(str, names)))
