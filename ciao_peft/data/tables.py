"""Tables of rows, read piece by piece through the one door for files from outside."""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from ..door import MAX_TABLE_BYTES, open_file, parse_json, read_lines
from ..errors import DataError, FileReadError, listed, shortened

if TYPE_CHECKING:
    from .builder import LeftOut

__all__ = [
    "METADATA",
    "TABLE_SUFFIXES",
    "Table",
    "plain_name",
    "read_table",
    "repeated_row",
    "table_records",
    "table_rows",
]

METADATA = ("metadata.csv", "metadata.jsonl")
"""Tables in a folder of pictures that say something of each, by its `file_name`."""

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".jsonl", ".parquet")
"""Kinds of tables that `read_table` reads; all but the last two are text with a separator between the columns."""

_DELIMITERS = ",;\t|"


class Table(NamedTuple):
    """A table in memory.

    Args:
        columns: Names of the columns, without spaces around them.
        records: The rows by column; a field that is empty may be missing.
        nested: Columns that hold lists or records, which are not read.
        places: Where each row stands, for messages: `line 7`, or `row 6` of Parquet.
    """

    columns: list[str]
    records: list[dict[str, Any]]
    nested: list[str]
    places: list[str]


def plain_name(column: str) -> str:
    """A column's name as it is compared: `Image Path` and `image-path` are `image_path`.

    Args:
        column: As the header spells it.

    Example:
        >>> plain_name(" Image Path ")
        'image_path'
    """
    return re.sub(r"[\s_-]+", "_", column.strip().casefold())


def read_table(path: Path, left_out: LeftOut, file_columns: Collection[str] = ("file_name",)) -> Table:
    """Reads a table of one of `TABLE_SUFFIXES`.

    The columns of a text are separated by a comma, a semicolon, a tab or a bar: the first of these with which the
    header names one of `file_columns`, in any case, or else the one that makes most columns. Where it is a semicolon, a
    comma may be the decimal sign.

    Args:
        path: A regular file: text in UTF-8, or Parquet.
        left_out: Malformed rows are counted here.
        file_columns: Names that the column of the files may have.

    Raises:
        DataError: it cannot be read as a table, or its suffix says that it is none.

    Example:
        >>> import tempfile
        >>> from ciao_peft.data.builder import LeftOut
        >>> path = Path(tempfile.mkdtemp(), "labels.csv")
        >>> _ = path.write_text("file_name;mood\\na.png;glad\\n")
        >>> read_table(path, LeftOut()).records
        [{'file_name': 'a.png', 'mood': 'glad'}]
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise DataError(f"{shortened(repr(str(path)))} is no table: one of {listed(TABLE_SUFFIXES)} is read.")
    if suffix == ".parquet":
        return _parquet(path)
    if suffix == ".jsonl":
        return _json_lines(path, left_out)
    header, delimiter, rows = table_records(path, partial(_delimiter, file_columns=file_columns))
    records: list[dict[str, Any]] = []
    places: list[str] = []
    for number, record in rows:
        if None in record or None in record.values():  # too many fields, or too few
            left_out.add(f"malformed row of {path.name}", f"line {number}")
        else:
            full = {str(name): str(value) for name, value in record.items()}
            records.append(_with_points(full) if delimiter == ";" else full)
            places.append(f"line {number}")
    return Table(header, records, [], places)


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


def repeated_row(table: Path, same: bool, noun: str = "row") -> str:
    """Why a row of a released table is left out, where an earlier one is about the same face: that one counts.

    Args:
        table: The table.
        same: Whether both rows have the same label.
        noun: What stands twice.

    Example:
        >>> repeated_row(Path("label.lst"), True), repeated_row(Path("label.lst"), False)
        ('repeated row of label.lst', 'repeated row of label.lst with another label (the first counts)')
    """
    return f"repeated {noun} of {table.name}" + ("" if same else " with another label (the first counts)")


def _no_table(path: str | os.PathLike[str], line: int, error: csv.Error) -> DataError:
    return DataError(f"'{shortened(os.fspath(path))}' cannot be read as a table, line {line}: {error}.")


def _json_lines(path: Path, left_out: LeftOut) -> Table:
    records: list[dict[str, Any]] = []
    places: list[str] = []
    for number, line in enumerate(read_lines(path, error=DataError), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line, path)
        except FileReadError:
            record = None
        if isinstance(record, dict):
            records.append(record)
            places.append(f"line {number}")
        else:
            left_out.add(f"malformed row of {path.name}", f"line {number}")
    return Table(sorted({name for record in records for name in record}), records, [], places)


def _parquet(path: Path) -> Table:
    import pyarrow as pa

    with open_file(path, MAX_TABLE_BYTES, error=DataError) as file:
        try:
            return _parquet_rows(path, file)
        except (pa.ArrowException, OSError, ValueError, UnicodeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"'{shortened(os.fspath(path))}' cannot be read as Parquet: {shortened(str(error), 200)}."
            ) from None


def _parquet_rows(path: Path, file: BinaryIO) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    limit = MAX_TABLE_BYTES // 8
    plain = pq.ParquetFile(file, thrift_string_size_limit=2**24, thrift_container_size_limit=2**20)
    fields = list(plain.schema_arrow)
    flat = [field.name for field in fields if not (pa.types.is_nested(field.type) or pa.types.is_binary(field.type))]
    claimed = sum(plain.metadata.row_group(group).total_byte_size for group in range(plain.num_row_groups))
    if claimed > MAX_TABLE_BYTES or plain.metadata.num_rows * max(1, len(flat)) > limit:
        raise DataError(f"'{shortened(os.fspath(path))}' unpacks to more than a table of labels ever has.")
    # As dictionaries: a text that a row shares with thousands of others is unpacked once for each row that is read.
    texts = [field.name for field in fields if field.name in flat and pa.types.is_string(field.type)]
    file.seek(0)
    reader = pq.ParquetFile(file, read_dictionary=texts)
    records: list[dict[str, Any]] = []
    size = 0
    for batch in reader.iter_batches(batch_size=1024, columns=flat, use_threads=False):
        columns = {name: batch.column(place) for place, name in enumerate(batch.schema.names)}
        for row in range(batch.num_rows):
            record = {name: column[row].as_py() for name, column in columns.items()}
            size += sum(len(value) for value in record.values() if isinstance(value, str))
            if size > limit:
                raise DataError(f"'{shortened(os.fspath(path))}' unpacks to more than a table of labels ever has.")
            records.append(record)
    nested = [field.name for field in fields if field.name not in flat]
    return Table(flat, records, nested, [f"row {number}" for number in range(1, len(records) + 1)])


def _delimiter(header: str, file_columns: Collection[str]) -> str:
    """The separator with which a header names the column of the files, or else that of most columns."""
    known = set(map(plain_name, file_columns))
    most, found = 1, ","
    for delimiter in _DELIMITERS:
        try:
            names = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:  # a field beyond what csv takes, by this separator; whoever reads the table says so
            continue
        if known & set(map(plain_name, names)):
            return delimiter
        if len(names) > most:
            most, found = len(names), delimiter
    return found


def _with_points(record: dict[str, Any]) -> dict[str, Any]:
    """Where a semicolon separates the columns, a comma may be the decimal sign."""
    return {
        name: value.replace(",", ".") if re.fullmatch(r"\s*[+-]?\d*,\d+\s*", value) else value
        for name, value in record.items()
    }
