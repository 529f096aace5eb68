"""Suggestions as a table with room for labels, and as a sheet of the faces."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.tables import read_table
from ..drawing import Picture, as_png, blank_figure
from ..errors import ConfigError, InputError, quoted, shortened
from ..preprocessing.pictures import as_mode, open_picture
from ..saving.files import refusals_told, write_file
from .suggesting import Suggestion, Suggestions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SHEET_FILE", "TABLE_FILE", "Labelled", "labelled_rows", "save_suggestions", "suggestion_sheet"]

TABLE_FILE = "to_label.csv"
"""The table, in its folder."""

SHEET_FILE = "to_label.png"
"""The sheet of the faces, in its folder."""

_OWN = ("file_name", "score", "says", "sure")
_COLUMNS, _INCH, _SIDE = 5, 1.5, 180  # faces in a row of the sheet, of that width, of so many pixels


@dataclass(frozen=True)
class Labelled:
    """The rows of an earlier table that have their labels.

    Args:
        rows: By column, each with `file_name`.
        left_out: What could not be read of the table, in words; empty where all could.
        of_tests: Pictures that the table says are of a test, with or without a label, as it names them.
    """

    rows: tuple[dict[str, str], ...]
    left_out: str = ""
    of_tests: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        """Their pictures, as the table names them."""
        return [row["file_name"] for row in self.rows]


def labelled_rows(
    table: str | os.PathLike[str], label_columns: Sequence[str] = ("label",), *, image_column: str | None = None
) -> Labelled:
    """Reads the rows of a table that have a label; those without one are still to be labelled.

    Args:
        table: As `load_faces(csv=...)` reads it.
        label_columns: Where the labels are; a row needs all of them.
        image_column: Where the names of the files are; found by its name when left out.

    Raises:
        DataError: it is no table, or lacks a column.
        DataNotFoundError: there is no such file.

    Example:
        >>> import tempfile
        >>> table = Path(tempfile.mkdtemp(), "labels.csv")
        >>> _ = table.write_text("file_name,label\\na.png,glad\\nb.png,\\n")
        >>> labelled_rows(table).files
        ['a.png']
    """
    from ..data.builder import LeftOut  # late: they bring `datasets` along
    from ..data.facestable import IMAGE_COLUMNS, image_column_of
    from ..data.named_rows import check_column
    from ..data.rows import as_text, is_no_label
    from .unlabelled import files_of_tests

    path, left_out = Path(table).expanduser(), LeftOut()
    read = read_table(path, left_out, IMAGE_COLUMNS if image_column is None else (image_column,))
    column = image_column_of(read, path) if image_column is None else image_column
    check_column(column, read, path, "image_column")
    for name in label_columns:
        check_column(name, read, path, "label_column")
    rows: list[dict[str, str]] = []
    for record in read.records:
        texts = {name: as_text(record.get(name)) for name in read.columns}
        file_name = texts.pop(column)
        if file_name and not any(is_no_label(texts[name]) for name in label_columns):
            rows.append({"file_name": file_name, **texts})
    of_tests = files_of_tests(read, column, label_columns)
    return Labelled(tuple(rows), str(left_out) if left_out else "", tuple(of_tests))


def save_suggestions(
    suggestions: Suggestions,
    folder: str | os.PathLike[str],
    *,
    pictures: str | os.PathLike[str] | Mapping[int, Any] | None = None,
    label_columns: Sequence[str] = ("label",),
    labelled: Iterable[Mapping[str, str]] = (),
) -> Path:
    """Writes a table with a row for each suggestion and an empty column for its label, and a sheet of the faces.

    Fill the labels in and give the table to `load_faces(csv=...)` or `ciao train --csv`: rows whose label is empty are
    left out there. `score` is the strategy's, `says` what the adapter says now and `sure` its probability. The sheet
    shows the faces themselves: keep it where the pictures are kept.

    Args:
        suggestions: What `suggest` returned, with names of files.
        folder: Where; made where it is missing.
        pictures: The folder that the names start from, or pictures by the index of the suggestion, for the sheet. No
            sheet is drawn when left out.
        label_columns: The empty columns.
        labelled: Rows that have labels already, such as `labelled_rows` reads; they follow, as they are.

    Returns:
        The table.

    Raises:
        InputError: a suggestion has no file.
        ConfigError: a table with labels is there that `labelled` does not hold, or the disk refuses.
        MissingExtraError: a sheet is asked for, and matplotlib is missing.

    Example:
        >>> import tempfile
        >>> one = Suggestion(0, "a.png", 0.75, {"glad": 0.625, "sad": 0.375})
        >>> kind = "single_label_classification"
        >>> table = save_suggestions(Suggestions((one,), "margin", 9, 0, (), kind), tempfile.mkdtemp())
        >>> print(table.read_text())
        file_name,label,score,says,sure
        a.png,,0.75,glad,0.625
        <BLANKLINE>
    """
    if nameless := [one.index for one in suggestions if one.file_name is None]:
        raise InputError(f"A table names files, and face {nameless[0]} has none; give a folder or a list of paths.")
    kept, table = list(labelled), Path(folder).expanduser() / TABLE_FILE
    _check_no_label_is_lost(table, label_columns, {row["file_name"] for row in kept})
    sheet = None if pictures is None else suggestion_sheet(suggestions, pictures)
    more = [name for name in dict.fromkeys(name for row in kept for name in row) if name not in (*_OWN, *label_columns)]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, ["file_name", *label_columns, *_OWN[1:], *more], restval="", lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()
    for one in suggestions:
        says, sure = _said(one, suggestions.problem_type)
        writer.writerow({"file_name": one.file_name, "score": f"{one.score:.6g}", "says": says, "sure": sure})
    writer.writerows(kept)
    with refusals_told(ConfigError, table, "Name another folder."):
        write_file(table, text.getvalue())
        if sheet is not None:
            write_file(table.with_name(SHEET_FILE), sheet)
    return table


def suggestion_sheet(suggestions: Suggestions, pictures: str | os.PathLike[str] | Mapping[int, Any]) -> Picture:
    """Draws the faces with their numbers, files and answers, the one to begin with at the top left.

    Args:
        suggestions: One or more.
        pictures: The folder that the names of files start from, or pictures by the index of the suggestion.

    Raises:
        DataError: a picture cannot be read.
        MissingExtraError: matplotlib is missing.

    Example:
        >>> from ciao_peft.data import paint_face
        >>> one = Suggestion(3, None, 0.75, {"glad": 0.625, "sad": 0.375})
        >>> suggestion_sheet(Suggestions((one,), "margin", 9, 0, ()), {3: paint_face()})[1:4]
        b'PNG'
    """
    rows = max(1, math.ceil(len(suggestions) / _COLUMNS))
    figure = blank_figure(_COLUMNS * _INCH, rows * (_INCH + 0.45))
    axes: list[Axes] = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    for each in axes:
        each.set_axis_off()
    for number, (own, one) in enumerate(zip(axes, suggestions, strict=False), start=1):
        given = pictures[one.index] if isinstance(pictures, Mapping) else Path(pictures) / str(one.file_name)
        face = as_mode(open_picture(given), "RGB")
        face.thumbnail((_SIDE, _SIDE))
        own.imshow(face)
        says, sure = _said(one, suggestions.problem_type)
        share = f" {100 * float(sure):.0f} %" if sure else ""
        name = "" if one.file_name is None else _end_of(one.file_name)
        own.set_title(f"{number}  {name}\n{shortened(says, 24)}{share}", fontsize=6.5)
    return as_png(figure)


def _said(one: Suggestion, problem_type: str | None) -> tuple[str, str]:
    """What the adapter says, and how sure it is where one class of several is its answer."""
    if not one.answer:
        return "", ""
    if problem_type == "single_label_classification":
        label, value = max(one.answer.items(), key=lambda pair: pair[1])
        return label, f"{value:.6g}"
    return "; ".join(f"{label} {value:.3g}" for label, value in one.answer.items()), ""


def _end_of(name: str) -> str:
    return name if len(name) <= 22 else f"…{name[-21:]}"


def _check_no_label_is_lost(table: Path, label_columns: Sequence[str], kept: set[str]) -> None:
    """Refuses to write over labels that somebody gave and that the new table would not hold."""
    if not table.exists():
        return
    lost = [name for name in labelled_rows(table, label_columns).files if name not in kept]
    if lost:
        raise ConfigError(
            f"{quoted(str(table))} has {len(lost)} labels that would be lost, of {quoted(lost[0])} first. Hand it over "
            "as labelled (`--labelled`), or name another folder."
        )
