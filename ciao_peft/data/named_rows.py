"""Rows of a table that names files, each joined with its file."""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ..checking import closest
from ..errors import DataError, listed, quoted, shortened
from .builder import HIDDEN, LeftOut
from .rows import Row, as_number, as_text, spelled_plainly
from .tables import Table

__all__ = ["NamedColumns", "check_column", "named_rows"]


class NamedColumns(NamedTuple):
    """Which column of a table says what.

    Args:
        file: The name of the file.
        labels: Its labels.
        identity: Which rows belong together; the table need not have it.
        fold: The part of the data, where there is such a column.
    """

    file: str
    labels: tuple[str, ...]
    identity: str
    fold: str | None = None


def named_rows(
    table: Path,
    read: Table,
    columns: NamedColumns,
    base: Path,
    folder: Path,
    files: list[Path],
    left_out: LeftOut,
    noun: str = "image",
) -> list[Row]:
    """The rows of a table that have both their file and a label.

    Args:
        table: The table's path, for messages.
        read: Its content.
        columns: Which of its columns say what.
        base: The folder that its paths start from.
        folder: The folder that no file may leave.
        files: All files that may be named.
        left_out: Rows that cannot be used are counted here.
        noun: What a file is.

    Raises:
        DataError: a column is missing, a file stands twice with different labels, people or parts, or no row is left.
    """
    for name, setting in ((columns.file, "image_column"), *((label, "label_column") for label in columns.labels)):
        check_column(name, read, table, setting)
    if columns.identity != "identity":  # it was asked for
        check_column(columns.identity, read, table, "group_by")
    if columns.fold is not None:
        check_column(columns.fold, read, table, "split_column")
    paths = {str(path) for path in files}
    find = partial(_named_file, base=base, paths=paths, by_stem=_by_stem(paths))
    rows: dict[str, Row] = {}
    places: dict[str, str] = {}
    named: set[str] = set()
    for record, place in zip(read.records, read.places, strict=True):
        path, given = find(record.get(columns.file)), record.get(columns.file)
        named.add(path)
        labels = tuple(as_text(record.get(name)) for name in columns.labels)
        identity = as_text(record.get(columns.identity)) or None
        fold = None if columns.fold is None else as_text(record.get(columns.fold))
        row = Row(path, labels, identity, fold)
        if path in rows:
            if all(labels):
                _refuse_difference(table, given, (rows[path], places[path]), (row, place), columns)
            left_out.add(f"repeated row of {table.name}", given)
        elif path not in paths and not _is_seen(path, folder):
            left_out.add(f"row of {table.name} that names a file hidden or outside the folder", given)
        elif path not in paths and not os.path.isfile(path):
            left_out.add(f"row of {table.name} without its file", given)
        elif not all(labels):
            left_out.add(f"row of {table.name} without a label", given)
        else:
            rows[path], places[path] = row, place
    if unnamed := sorted(paths - set(rows) - named):
        left_out.add(f"{noun} that {table.name} does not name", unnamed[0], len(unnamed))
    if not rows:
        raise DataError(
            f"No row of {str(table)!r} has both its {noun} and a label. Left out: {left_out}."
            f"{_elsewhere(read, columns.file, files)}"
        )
    return list(rows.values())


def check_column(name: str, read: Table, table: Path, setting: str) -> None:
    """Refuses a table without a column.

    Args:
        name: The column.
        read: The table.
        table: Its path, for the message.
        setting: The setting that names another column.

    Raises:
        DataError: the column is missing or stands twice, or holds no text or numbers.
    """
    if name in read.nested:
        raise DataError(f"The column {name!r} of {str(table)!r} holds data of its own; text or numbers can be read.")
    if name not in read.columns:
        close = closest(name, read.columns)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise DataError(
            f"{str(table)!r} has no column {shortened(repr(name))}. Its columns: {listed(read.columns)}.{hint} Name "
            f"{_WHAT[setting]} with `{setting}` (`--{setting}`)."
        )
    if read.columns.count(name) > 1:
        raise DataError(
            f"{str(table)!r} has several columns {shortened(repr(name))}; which one counts? Rename the others."
        )


def _refuse_difference(
    table: Path, given: Any, first: tuple[Row, str], again: tuple[Row, str], columns: NamedColumns
) -> None:
    """Refuses a file that stands twice in a table, where the rows disagree about what is read of them."""
    names = (*columns.labels, columns.identity, columns.fold)
    values = [(*row.labels, row.identity, row.fold) for row, _ in (first, again)]
    for name, one, other in zip(names, *values, strict=True):
        if _plainly(one) != _plainly(other):
            raise DataError(
                f"{str(table)!r} names {quoted(given)} twice: {name!r} is {quoted(one)} in {first[1]} and "
                f"{quoted(other)} in {again[1]}. Keep one row for each file."
            )


def _plainly(value: str | None) -> Any:
    """What a field says, however it is spelt."""
    text = spelled_plainly(value or "")
    number = as_number(text)
    return text if number is None else number


def _named_file(name: Any, base: Path, paths: set[str], by_stem: dict[str, str]) -> str:
    """The path that a row names; what another system separates by backslashes, or without its suffix, too."""
    text = str(name or "")
    path = os.path.normpath(base / text)
    if path not in paths and "\\" in text:
        path = os.path.normpath(base / text.replace("\\", "/"))
    return path if path in paths else by_stem.get(path, path)


def _by_stem(paths: set[str]) -> dict[str, str]:
    """The one file of each name without its suffix."""
    count = Counter(os.path.splitext(path)[0] for path in paths)
    return {stem: path for path in paths if count[stem := os.path.splitext(path)[0]] == 1}


def _elsewhere(read: Table, file_column: str, files: list[Path]) -> str:
    """Where the files of a table are, if every one of its paths is wrong in the same way."""
    first = next((str(record[file_column]) for record in read.records if record.get(file_column)), "")
    found = next((path for path in files if first and path.name == os.path.basename(first)), None)
    if found is None:
        return ""
    depth = len(Path(first).parts)
    folder = Path(*found.parts[:-depth]) if found.parts[-depth:] == Path(first).parts else found.parent
    return f" A file {found.name!r} is in {str(found.parent)!r}: perhaps `data_dir` has to be {str(folder)!r}."


def _is_seen(path: str, folder: Path) -> bool:
    """Whether the path lies in the folder and is not hidden: no other file's change is seen at the next load."""
    parts = Path(path).relative_to(folder).parts if Path(path).is_relative_to(folder) else (".",)
    return not any(part.startswith(HIDDEN) for part in parts)


_WHAT = {
    "group_by": "the one with the people",
    "image_column": "the one with the names of the files",
    "label_column": "the one with the labels",
    "split_column": "the one with the splits",
}
