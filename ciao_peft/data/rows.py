"""Rows of a folder or a table of one's own: what their labels are, and which of them can be used."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..checking import check_known
from ..errors import DataError, quoted

if TYPE_CHECKING:
    from .builder import LeftOut

__all__ = [
    "PROBLEMS",
    "LabelSettings",
    "Row",
    "as_number",
    "as_text",
    "is_no_label",
    "labelled",
    "spelled_plainly",
]

PROBLEMS = {
    "class": "single_label_classification",
    "number": "regression",
    "binary": "multi_label_classification",
}
"""The problem that each kind of label poses."""

_NO_LABEL = ("nan", "<na>", "null", "nat", "#n/a")  # how tools write a number that is not there


@dataclass(frozen=True)
class Row:
    """One picture or video with what is said of it.

    Args:
        path: The file.
        labels: The text of each label column.
        identity: Which rows belong together, such as the person; `None` where nothing says so.
        fold: The fold it belongs to, where a column says so.
    """

    path: str
    labels: tuple[str, ...]
    identity: str | None
    fold: str | None = None


class LabelSettings(Protocol):
    """What a config says of labels; `ImageFolderConfig` is one."""

    @property
    def label_columns(self) -> list[str]:
        """Names of the columns with labels."""
        ...

    @property
    def label_type(self) -> str | None:
        """`"class"`, `"number"`, `"binary"`, or `None` to tell by the values."""
        ...

    @property
    def label_map(self) -> Mapping[str, str | None] | None:
        """Classes that get another name, or none."""
        ...

    @property
    def min_images_per_class(self) -> int:
        """Classes with fewer training rows are dropped."""
        ...


def labelled(
    splits: dict[str, list[Row]], settings: LabelSettings, left_out: LeftOut, where: str, noun: str = "image"
) -> tuple[dict[str, list[Row]], str]:
    """Tells what kind of label the rows have, and keeps those that can be used.

    Args:
        splits: The rows of each split.
        settings: How labels are read.
        left_out: Rows without a label and rows of small classes are counted here.
        where: The folder, for messages.
        noun: What a row is about, for messages.

    Returns:
        The rows that are left, of splits that have any; and `"class"`, `"number"` or `"binary"`.

    Raises:
        DataError: a label is no number where numbers are needed, two classes differ in spelling only, `label_map` names
            a class that is not there, or nothing is left.
    """
    kind = _kind_of_label(splits, settings)
    if kind != "class" and settings.label_map:
        raise DataError(f"`label_map` renames classes; the labels of {where!r} are values ({PROBLEMS[kind]}).")
    if kind == "class":
        splits = {name: _with_class(rows, left_out) for name, rows in splits.items()}
        splits = _renamed(_numbers_named_once(splits), settings.label_map or {}, left_out, noun)
        if not any(splits.values()):
            raise DataError(f"No row of {where!r} has a label. Left out: {left_out}.")
        _refuse_spellings(splits, settings.label_map or {}, where)
        splits = _without_small_classes(splits, settings.min_images_per_class, left_out, noun)
    return {name: rows for name, rows in splits.items() if rows}, kind


def _kind_of_label(splits: dict[str, list[Row]], settings: LabelSettings) -> str:
    kind, columns = settings.label_type, settings.label_columns
    everyone = [row for part in splits.values() for row in part]
    rows = everyone
    if len(columns) == 1 and kind is None:
        rows = [row for row in everyone if not is_no_label(row.labels[0])]
    values = _values(rows)
    if kind == "class" and len(columns) > 1:
        raise DataError(f"Classes come from one column; `label_column` names {len(columns)}: {', '.join(columns)}.")
    if kind is None and len(columns) == 1:
        numbers = [value for (value,) in values if value is not None]
        numeric = len(numbers) == len(values)
        kind = "number" if numeric and not all(map(float.is_integer, numbers)) else "class"
        rows, values = everyone, _values(everyone)
    elif kind is None:
        kind = "binary" if all(value in (0.0, 1.0) for row in values for value in row) else "number"
    if kind == "class":
        return kind
    for row, row_values in zip(rows, values, strict=True):
        for column, text, value in zip(columns, row.labels, row_values, strict=True):
            if value is None or (kind == "binary" and value not in (0.0, 1.0)):
                problem = "no finite number" if kind == "number" else "neither 0 nor 1"
                raise DataError(f"Column {column!r} says {text!r} for {row.path!r}, which is {problem}.")
    return kind


def _values(rows: Iterable[Row]) -> list[list[float | None]]:
    return [[as_number(text) for text in row.labels] for row in rows]


def _with_class(rows: Sequence[Row], left_out: LeftOut) -> list[Row]:
    """The rows of a table that have a class; a missing number is none."""
    kept = [row for row in rows if not is_no_label(row.labels[0])]
    for row in rows:
        if is_no_label(row.labels[0]):
            left_out.add(f"row without a label ({row.labels[0]})", Path(row.path).name)
    return kept


def _numbers_named_once(splits: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Gives equal numbers one name, where all classes are whole numbers: 1 and 1.0 are one class."""
    texts = sorted({row.labels[0] for rows in splits.values() for row in rows}, key=lambda text: (len(text), text))
    numbers = [(as_number(text), text) for text in texts]
    if not all(number is not None and number.is_integer() for number, _ in numbers):
        return splits
    names: dict[float | None, str] = {}
    for number, text in numbers:
        names.setdefault(number, text if text.isdigit() else str(int(number or 0)))
    return {
        split: [replace(row, labels=(names[as_number(row.labels[0])],)) for row in rows]
        for split, rows in splits.items()
    }


def _renamed(
    splits: dict[str, list[Row]], names: Mapping[str, str | None], left_out: LeftOut, noun: str
) -> dict[str, list[Row]]:
    """The rows with their classes renamed, without those whose class is to be left out."""
    if not names:
        return splits
    there = {row.labels[0] for rows in splits.values() for row in rows}
    check_known("label", names, there, "in `label_map`", DataError)
    for name in (name for name, other in names.items() if other is None):
        count = sum(row.labels[0] == name for rows in splits.values() for row in rows)
        left_out.add(f"{noun} of a class that `label_map` leaves out", name, count)
    said = {split: [(row, names.get(row.labels[0], row.labels[0])) for row in rows] for split, rows in splits.items()}
    return {
        split: [replace(row, labels=(name,)) for row, name in rows if name is not None] for split, rows in said.items()
    }


def _refuse_spellings(splits: dict[str, list[Row]], names: Mapping[str, str | None], where: str) -> None:
    """Refuses classes that only case, spaces or the way their letters are encoded tell apart."""
    counts = Counter(row.labels[0] for rows in splits.values() for row in rows)
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in sorted(counts):
        if names.get(name) != name:  # one mapped to itself is meant to be a class of its own
            spellings[spelled_plainly(name)].append(name)
    for several in (several for several in spellings.values() if len(several) > 1):
        common = max(several, key=lambda name: counts[name])
        rare = next(name for name in several if name != common)
        sizes = ", ".join(f"{quoted(name)}: {counts[name]:,}" for name in several[:10])
        raise DataError(
            f"{where!r} has {len(several)} classes that differ only in case or spaces ({sizes}). To make them one, "
            f"give `label_map={{{quoted(rare)}: {quoted(common)}}}` (`--label_map`); to keep both, map one to itself."
        )


def _without_small_classes(
    splits: dict[str, list[Row]], least: int, left_out: LeftOut, noun: str
) -> dict[str, list[Row]]:
    first = "train" if splits.get("train") else next(iter(splits))
    train = Counter(row.labels[0] for row in splits[first])
    names = {row.labels[0] for rows in splits.values() for row in rows}
    small = sorted(name for name in names if train[name] < least)
    if len(small) == len(names) and names:
        sizes = ", ".join(f"{name}: {train[name]}" for name in small[:20])
        raise DataError(
            f"Every class has fewer than {least} training {noun}s ({sizes}). Lower `min_images_per_class`; 0 keeps all."
        )
    for name in small:
        counts = {split: sum(row.labels[0] == name for row in rows) for split, rows in splits.items()}
        where = ", ".join(f"{count} in {split}" for split, count in counts.items() if count)
        reason = f"{noun} of class {name!r} ({train[name]} training {noun}s, `min_images_per_class` is {least})"
        left_out.add(reason, where, sum(counts.values()))
    return {split: [row for row in rows if row.labels[0] not in small] for split, rows in splits.items()}


def as_text(value: Any) -> str:
    """The text of a table's field without spaces around it; none for a field that is not there.

    Example:
        >>> as_text(" glad "), as_text(None), as_text(3)
        ('glad', '', '3')
    """
    return "" if value is None else str(value).strip()


def is_no_label(text: str) -> bool:
    """Whether a table's field is how tools write a value that is not there, or empty.

    Example:
        >>> [is_no_label(text) for text in ("", "nan", "#N/A", "none", "sad")]
        [True, True, True, False, False]
    """
    return not text or text.lower() in _NO_LABEL


def as_number(text: str) -> float | None:
    """The finite number that a text says, or `None`.

    Example:
        >>> as_number("0.5"), as_number("glad"), as_number("inf")
        (0.5, None, None)
    """
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def spelled_plainly(text: str) -> str:
    """A text without its case, its spaces but single ones between words, and how its letters are encoded.

    Example:
        >>> spelled_plainly("HAPPY "), spelled_plainly(" At  ease")
        ('happy', 'at ease')
    """
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())
