"""The datasets' label sets, and the one mapping between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..checking import check_known
from ..errors import DataError

__all__ = [
    "AFFECTNET",
    "CKPLUS",
    "EMOREACT",
    "EXPRESSIONS",
    "EXPW",
    "FER2013",
    "FERPLUS",
    "JAFFE",
    "RAFDB",
    "expression_name",
    "label_mapping",
]

EXPRESSIONS = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger", "contempt")
"""The eight names into which all others are translated, in AffectNet's order."""

JAFFE = ("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise")
FER2013 = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
FERPLUS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
AFFECTNET = EXPRESSIONS
RAFDB = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")  # numbered from 1 in the release
EXPW = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
CKPLUS = ("neutral", "anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")
EMOREACT = ("curiosity", "uncertainty", "excitement", "happiness", "surprise", "disgust", "fear", "frustration")

_OTHER_NAMES = {
    "neutral": ("calm", "ne"),
    "happiness": ("happy", "joy", "ha", "happily"),
    "sadness": ("sad", "sa"),
    "surprise": ("surprised", "su"),
    "fear": ("fearful", "afraid", "scared", "fe"),
    "disgust": ("disgusted", "di"),
    "anger": ("angry", "an"),
    "contempt": ("contemptuous",),
}
_CANONICAL = {other: name for name, others in _OTHER_NAMES.items() for other in (name, *others)}


def expression_name(label: str) -> str | None:
    """Translates a label into one of the names in `EXPRESSIONS`, whatever its grammar and case.

    Args:
        label: An expression as a dataset names it: a noun, an adjective, or JAFFE's two letters.

    Returns:
        The name, or `None` for a label that means none of the eight.

    Example:
        >>> [expression_name(label) for label in ("Happy", "disgusted", "AN", "curiosity")]
        ['happiness', 'disgust', 'anger', None]
    """
    return _CANONICAL.get(label.strip().lower())


def label_mapping(
    source: Sequence[str], target: Sequence[str], names: Mapping[str, str | None] | None = None
) -> list[int | None]:
    """Finds the index of the same expression in another dataset, for each label of one dataset.

    Class ids mean something else in every dataset (4 is sadness in FER2013, anger in FER+ and fear in AffectNet), so
    never carry ids over: carry names. `map_labels` does so with a whole dataset.

    Args:
        source: Names of the labels to translate, for example `faces.features["label"].names`.
        target: Names of the labels to translate into.
        names: What is not the same by name: the label of `target` for a label of `source`, or `None` for none.

    Returns:
        An index into `target` per source label, `None` where the target has no such expression.

    Raises:
        DataError: two target labels mean the same expression, or `names` has a label that is not there.

    Example:
        >>> label_mapping(FERPLUS, FER2013)
        [6, 3, 5, 4, 0, 1, 2, None]
        >>> label_mapping(["at ease", "happy"], ["neutral", "happiness"], {"at ease": "neutral"})
        [0, 1]
    """
    names = names or {}
    check_known("label", names, source, "of the dataset")
    check_known("label", [name for name in names.values() if name is not None], target, "of the other world")

    def meaning(label: str) -> str:
        return expression_name(label) or label.strip().lower()

    index = {meaning(name): number for number, name in enumerate(target)}
    if len(index) < len(target):
        raise DataError(f"Two of these labels mean the same expression: {', '.join(map(repr, target))}.")
    said = {name: None if other is None else list(target).index(other) for name, other in names.items()}
    return [said[name] if name in said else index.get(meaning(name)) for name in source]
