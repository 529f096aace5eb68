"""Which faces of a folder are still to be labelled: not those of a test split, and not those that have a label."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from ..data.tables import Table

__all__ = ["files_of_tests", "labels_beside", "rows_without_labels", "still_to_label", "told"]

_SPLIT = ("split", "subset", "partition", "usage")  # columns that say to which part of the data a face belongs
_NO_LABEL = {"identity", "subject", "person", "license", "source", *_SPLIT}  # that say something else of a face


def still_to_label(
    folder: str | os.PathLike[str], pictures: Iterable[Path], label_columns: Sequence[str] | None = None
) -> tuple[list[Path], dict[str, int]]:
    """Leaves out pictures that nobody is to be asked about.

    Those are the faces of a part of the data that tests (`test/`, `validation/` and their other names, or by a column
    `split` of a table), those with a label in a `metadata.csv` or `metadata.jsonl` beside or above them, and those in
    the folders of classes of `train/`.

    Args:
        folder: As `load_faces("imagefolder", folder)` reads it, or any other.
        pictures: In it, at any depth.
        label_columns: Of the tables; a face has a label where all of them that the table has are filled. When left out,
            any column but the name of the file, and who it is, counts.

    Returns:
        The pictures that are left, in their order; and why others are not, with how many.

    Raises:
        DataError: a table cannot be read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "metadata.csv").write_text("file_name,label\\na.png,glad\\nb.png,\\n")
        >>> left, why = still_to_label(folder, [folder / name for name in ("a.png", "b.png", "test/c.png")])
        >>> [path.name for path in left], why
        (['b.png'], {'have a label in metadata.csv': 1, 'are in test': 1})
    """
    from ..data.builder import walk  # late: they bring `datasets` along
    from ..data.folder_layout import SPLIT_NAMES
    from ..data.tables import METADATA

    folder, why = Path(folder), Counter[str]()
    tables = [path for path in (walk(folder) if folder.is_dir() else ()) if path.name in METADATA]
    labelled: dict[str, str] = {}
    for table in tables:
        told = table.relative_to(folder).as_posix()
        with_label, of_tests = _said_in(table, label_columns)
        labelled |= {os.path.normpath(table.parent / name): f"have a label in {told}" for name in with_label}
        labelled |= {os.path.normpath(table.parent / name): f"are of a test in {told}" for name in of_tests}
    described = {table.parent for table in tables}
    left: list[Path] = []
    for picture in pictures:
        parts = list(picture.relative_to(folder).parts)
        split = SPLIT_NAMES.get(parts[0].lower()) if len(parts) > 1 else None
        reason = labelled.get(os.path.normpath(picture))
        if split in ("test", "validation"):
            reason = f"are in {parts[0]}"
        elif split == "train" and len(parts) > 2 and not described & {*picture.parents}:
            reason = f"are in folders of classes of {parts[0]}"
        if reason is None:
            left.append(picture)
        else:
            why[reason] += 1
    return left, dict(why)


def _said_in(table: Path, label_columns: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Names of the files that have a label in a table, and of those that it says are of a test."""
    from ..data.builder import LeftOut
    from ..data.facestable import IMAGE_COLUMNS, image_column_of
    from ..data.rows import as_text, is_no_label
    from ..data.tables import read_table

    def text_of(record: Mapping[str, Any], name: str) -> str:
        text = as_text(record.get(name))  # JSON has NaN for what was no value in a table
        return "" if is_no_label(text) else text

    read = read_table(table, LeftOut(), IMAGE_COLUMNS)
    own = image_column_of(read, table)
    others = [name for name in read.columns if name != own and name.lower() not in _NO_LABEL]
    columns = others if label_columns is None else [name for name in label_columns if name in read.columns]
    every = any if label_columns is None else all
    named = ((as_text(record.get(own)), [text_of(record, name) for name in columns]) for record in read.records)
    with_label = [name for name, texts in named if name and texts and every(texts)]
    return with_label, files_of_tests(read, own, label_columns or ())


def files_of_tests(read: Table, image_column: str, label_columns: Sequence[str] = ()) -> list[str]:
    """Names of the files that a table says are of a part of the data that tests.

    It says so in a column `split`, `subset`, `partition` or `usage`, by a name that folders of tests have.

    Args:
        read: The table.
        image_column: Its column of files.
        label_columns: Of which none says to which part a face belongs.

    Example:
        >>> from ciao_peft.data.tables import Table
        >>> rows = [{"file": "a.png", "Split": "test"}, {"file": "b.png", "Split": "train"}]
        >>> files_of_tests(Table(["file", "Split"], rows, [], []), "file")
        ['a.png']
    """
    from ..data.facestable import SPLIT_WORDS
    from ..data.rows import as_text

    columns = [name for name in read.columns if name.lower() in _SPLIT and name not in label_columns]
    words = ((as_text(record.get(image_column)), [as_text(record.get(n)) for n in columns]) for record in read.records)
    tests = ("test", "validation")
    return [name for name, said in words if name and any(SPLIT_WORDS.get(word.lower()) in tests for word in said)]


def told(why: Mapping[str, int]) -> str:
    """Why faces were left out, in words.

    Example:
        >>> told({"are in test": 1200, "have a label in metadata.csv": 3})
        '1,200 are in test, 3 have a label in metadata.csv'
    """
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(why.items()))


def labels_beside(faces: Any) -> Any:
    """The labels that come with faces, as they stand there; None without any.

    Args:
        faces: As `ciao_peft.suggest` takes them.
    """
    columns = getattr(faces, "column_names", None)
    if isinstance(columns, list):
        return next((faces[name] for name in ("labels", "label") if name in columns), None)
    if isinstance(faces, (list, tuple)) and faces and all(isinstance(face, Mapping) for face in faces):
        every = [cast("Mapping[str, Any]", face) for face in faces]
        if not any("labels" in face or "label" in face for face in every):
            return None
        return [face.get("labels", face.get("label")) for face in every]
    labels = getattr(faces, "labels", None)
    return labels if isinstance(labels, torch.Tensor) else None


def rows_without_labels(labels: Any) -> list[int] | None:
    """Numbers of the faces without a label, where some have one and some do not; None otherwise.

    A label is missing where it is None, NaN, below 0, or a text that says so ("", "nan"). Where every face has one,
    somebody tries out how well faces are chosen, and all take part.

    Args:
        labels: A column of a dataset, or a tensor `(N,)` or `(N, L)`; None without any.

    Example:
        >>> rows_without_labels([2, None, 0, -1]), rows_without_labels([2, 1]), rows_without_labels(None)
        ([1, 3], None, None)
    """
    if labels is None:
        return None
    values = labels.tolist() if isinstance(labels, torch.Tensor) else list(labels)
    missing = [row for row, value in enumerate(values) if _is_missing(value)]
    return missing if 0 < len(missing) < len(values) else None


def _is_missing(value: Any) -> bool:
    from ..data.rows import is_no_label

    if isinstance(value, str):
        return is_no_label(value)
    if isinstance(value, (list, tuple)):
        return not value or any(one is None or one != one for one in value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value is None or value != value or (whole and value < 0)
