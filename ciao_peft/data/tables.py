"""Tables of rows in text, read line by line through the one door for files from outside."""

from __future__ import annotations

import csv
import itertools
import os
from collections.abc import Callable, Iterator

from ..door import read_lines
from ..errors import DataError, shortened

__all__ = ["METADATA", "table_records", "table_rows"]

METADATA = ("metadata.csv", "metadata.jsonl")
"""Tables in a folder of pictures that say something of each, by its `file_name`."""


def table_rows(path: str | os.PathLike[str], *, delimiter: str = ",", errors: str = "strict") -> Iterator[list[str]]:
    """The rows of a table, empty ones included.

    Args:
        path: A regular file in UTF-8.
        delimiter: Between two columns.
        errors: `"replace"` where a byte that is no UTF-8 is no reason to refuse the file.

    Raises:
        DataError: it cannot be read as a table.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "labels.csv")
        >>> _ = path.write_text("a.png,happy\\nb.png,sad\\n")
        >>> list(table_rows(path))
        [['a.png', 'happy'], ['b.png', 'sad']]
    """
    reader = csv.reader(read_lines(path, errors=errors, error=DataError), delimiter=delimiter)
    try:
        yield from reader
    except csv.Error as error:
        raise _no_table(path, reader.line_num, error) from None


def table_records(
    path: str | os.PathLike[str], delimiter_of: Callable[[str], str] = lambda header: ","
) -> tuple[list[str], str, Iterator[tuple[int, dict[str | None, str | None]]]]:
    """A table whose first row names its columns.

    Args:
        path: A regular file in UTF-8.
        delimiter_of: The delimiter, from the first line.

    Returns:
        The names of the columns, without spaces around them; the delimiter; and the number of each row's last line with
        the row by column, where a missing field is `None` and fields too many stand under `None`.

    Raises:
        DataError: it cannot be read as a table; also while the rows are read.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "labels.csv")
        >>> _ = path.write_text("file_name, label\\na.png,happy\\n")
        >>> names, _, rows = table_records(path)
        >>> names, list(rows)
        (['file_name', 'label'], [(2, {'file_name': 'a.png', 'label': 'happy'})])
    """
    lines = read_lines(path, error=DataError)
    first = next(lines, "")
    delimiter = delimiter_of(first)
    reader = csv.DictReader(itertools.chain([first], lines), delimiter=delimiter)
    try:
        names = [name.strip() for name in reader.fieldnames or []]
    except csv.Error as error:
        raise _no_table(path, 1, error) from None
    reader.fieldnames = names

    def rows() -> Iterator[tuple[int, dict[str | None, str | None]]]:
        try:
            for record in reader:
                yield reader.line_num, record  # pyright: ignore[reportReturnType] - csv says nothing of missing fields
        except csv.Error as error:
            raise _no_table(path, reader.line_num, error) from None

    return names, delimiter, rows()


def _no_table(path: str | os.PathLike[str], line: int, error: csv.Error) -> DataError:
    return DataError(f"'{shortened(os.fspath(path))}' cannot be read as a table, line {line}: {error}.")
