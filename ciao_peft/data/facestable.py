"""Faces in a table of one's own: any name, any columns, any of the usual kinds of files."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import datasets

from ..errors import DataError, DataNotFoundError, listed, shortened
from ..urls import not_on_this_disk
from .builder import LeftOut, file_mark, walk
from .folder_layout import SPLIT_NAMES
from .imagefolder import ImageFolder, ImageFolderConfig
from .rows import Row, as_number
from .tables import TABLE_SUFFIXES, Table, plain_name, read_table

__all__ = ["IMAGE_COLUMNS", "SPLIT_WORDS", "FacesTable", "FacesTableConfig", "image_column_of"]

IMAGE_COLUMNS = (
    *("image", "file_name", "filename", "file", "path", "filepath", "file_path", "image_path", "img_path"),
    *("image_name", "img", "pth", "subDirectory_filePath"),
)
"""Names of the column with the files that are known without `image_column`; case and spaces do not matter."""

SPLIT_WORDS = {**SPLIT_NAMES, "publictest": "validation", "privatetest": "test"}
"""The split that a word in a table means; case does not matter."""

_ORDER = ("train", "validation", "test")
_HOW = (
    f"Give `csv`: a table ({', '.join(TABLE_SUFFIXES)}) with a row for each picture, or one for each split, "
    "`{'train': 'a.csv', 'test': 'b.csv'}`; and `data_dir`, the folder of the pictures, where it is not the table's."
)


@dataclass
class FacesTableConfig(ImageFolderConfig):
    """Settings of `FacesTable`; those of `ImageFolderConfig` and these.

    Args:
        csv: The table, or the table of each split by its name.
        image_column: Column with the names of the files, relative to the folder; when left out, the one column that
            has one of the `IMAGE_COLUMNS` as its name.
        split_column: Column that says to which split a row belongs, such as `train` or `test`; or its fold, a whole
            number, of which `load_faces(fold=...)` chooses the one to test on.

    Raises:
        DataError: a setting has the wrong type or is out of its range.

    Example:
        >>> FacesTableConfig(csv="labels.csv", label_column="emotion").label_columns
        ['emotion']
    """

    csv: str | dict[str, str] = ""
    image_column: str | None = None
    split_column: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_column", "split_column"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise DataError(f"`{name}` must be a column's name, as text; got {shortened(repr(value))}.")
        if isinstance(self.csv, dict) and self.split_column is not None:
            raise DataError("`csv` names the table of each split; leave out `split_column`.")


class FacesTable(ImageFolder):
    """Reads the pictures that a table names, with its labels: `load_faces(csv="labels.csv", label_column="emotion")`.

    A table is a text whose columns are separated by a comma, a semicolon, a tab or a bar, JSON Lines or Parquet. Its
    files lie in `data_dir`, by default the table's folder; rows that name files outside of it are left out. Everything
    else is as in `ImageFolder`; rows of folds have the column `fold`.

    Args:
        args: As for `FacesBuilder`.
        data_dir: The folder of the pictures.
        csv: As in `FacesTableConfig`; looked for in the working directory, then in `data_dir`.
        kwargs: Settings of the config, and as for `FacesBuilder`.

    Raises:
        DataNotFoundError: there is no table, or no folder.
        DataError: a setting that there is not.

    Example:
        >>> import tempfile
        >>> from ciao_peft.data import load_faces, paint_face
        >>> folder = Path(tempfile.mkdtemp())
        >>> paint_face(size=32).save(folder / "a.png")
        >>> paint_face(size=32).save(folder / "b.png")
        >>> _ = (folder / "labels.csv").write_text("photo,mood,part\\na.png,calm,train\\nb.png,glad,test\\n")
        >>> faces = load_faces(
        ...     csv=folder / "labels.csv", image_column="photo", label_column="mood", split_column="part",
        ...     min_images_per_class=0, streaming=True,
        ... )
        >>> {name: [face["label"] for face in split] for name, split in faces.items()}
        {'train': [0], 'test': [1]}
    """

    BUILDER_CONFIG_CLASS = FacesTableConfig
    config: FacesTableConfig  # pyright: ignore[reportIncompatibleVariableOverride] - made by BUILDER_CONFIG_CLASS
    HOW_TO_OBTAIN: ClassVar[str] = _HOW

    def __init__(
        self,
        *args: Any,
        data_dir: str | os.PathLike[str] | None = None,
        csv: str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]] | None = None,
        **kwargs: Any,
    ):
        if csv is None or (isinstance(csv, Mapping) and not csv):
            raise DataNotFoundError(f"A table of faces needs a table. {_HOW}")
        given = csv if isinstance(csv, Mapping) else {"": csv}
        if odd := [path for path in given.values() if not isinstance(path, (str, os.PathLike))]:
            raise DataError(f"`csv` must be the path of a table; got {shortened(repr(odd[0]))}. {_HOW}")
        if unknown := [name for name in given if name and str(name).lower() not in SPLIT_WORDS]:
            raise DataError(f"`csv` names a table for {shortened(repr(unknown[0]))}; splits are {listed(_ORDER)}.")
        tables = {SPLIT_WORDS.get(str(name).lower(), ""): _found(path, data_dir) for name, path in given.items()}
        if len(tables) < len(given):
            raise DataError(f"`csv` names two tables for one split: {listed(given)}.")
        self._tables = tables
        folder = next(iter(tables.values())).parent if data_dir is None else data_dir
        plain: Any = {name: str(path) for name, path in tables.items()}
        super().__init__(*args, data_dir=folder, csv=plain.get("", plain), **kwargs)

    def _code(self) -> tuple[str, ...]:
        return (*super()._code(), read_table.__module__)

    def _fingerprint_of(self, data_dir: str | None) -> str:
        digest = hashlib.sha256(super()._fingerprint_of(data_dir).encode())
        for name, table in self._tables.items():  # it may lie outside the folder
            digest.update(f"{name}\0{table}\0".encode(errors="surrogateescape") + file_mark(table))
        return digest.hexdigest()[:16]

    def _fold_column(self) -> str | None:
        return self.config.split_column

    def _rows_by_split(self, folder: Path, left_out: LeftOut) -> dict[str, list[Row]]:
        files = [path for path in walk(folder) if path.suffix.lower() in self.SUFFIXES]
        if not files:
            raise DataNotFoundError(
                f"No {self.NOUN} in {str(folder)!r}. Name the folder with `data_dir` (`--data_dir`)."
            )
        splits: dict[str, list[Row]] = {}
        for split, table in sorted(self._tables.items(), key=lambda item: _ORDER.index(item[0] or "train")):
            given = self.config.image_column
            read = read_table(table, left_out, IMAGE_COLUMNS if given is None else (given,))
            column = image_column_of(read, table) if given is None else given
            rows = self._named_rows(table, read, column, folder, files, left_out)
            if self.config.split_column is None:
                splits[split or "train"] = rows
            else:
                splits = _by_column(rows, self.config.split_column, table, left_out)
        return splits

    def _more_features(self, splits: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
        folds = any(row.fold is not None for rows in splits.values() for row in rows)
        return {"fold": datasets.Value("string")} if folds else {}


def _found(path: str | os.PathLike[str], data_dir: str | os.PathLike[str] | None) -> Path:
    """The table, in the working directory or else in the folder of the pictures."""
    for place in (path, data_dir):  # the `Path` that `datasets` puts here would ask servers
        if hint := not_on_this_disk(place):
            raise DataNotFoundError(f"There is nothing at {shortened(repr(str(place)))}.{hint}")
    given = Path(path).expanduser()
    places = [given] if data_dir is None else [given, Path(data_dir).expanduser() / given]
    for place in places:
        if place.exists():
            return place.resolve()
    where = " and ".join(repr(str(place)) for place in places)
    raise DataNotFoundError(f"There is no table {shortened(where)}. {_HOW}")


def image_column_of(read: Table, table: Path) -> str:
    """The one column of a table that has a usual name of files.

    Args:
        read: The table.
        table: Its path, for messages.

    Raises:
        DataError: there is none, or there are several.

    Example:
        >>> image_column_of(Table(["File Name", "mood"], [], [], []), Path("labels.csv"))
        'File Name'
    """
    usual = set(map(plain_name, IMAGE_COLUMNS))
    known = [name for name in read.columns if name in IMAGE_COLUMNS]
    known = known or [name for name in read.columns if plain_name(name) in usual]
    if len(known) == 1:
        return known[0]
    what = "no column with a usual name of files"
    if known:
        what = f"several columns that may name the files: {listed(known)}"
    held = f" {listed(read.nested)} holds data of its own, which is not read." if read.nested else ""
    raise DataError(
        f"{str(table)!r} has {what}. Its columns: {listed(read.columns)}.{held} Name the one with the names of the "
        "files with `image_column` (`--image_column`)."
    )


def _by_column(rows: list[Row], column: str, table: Path, left_out: LeftOut) -> dict[str, list[Row]]:
    """The rows by the split that a column names; all of them as `train` where it names folds."""
    named: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        named[(row.fold or "").lower()].append(row)
    for row in named.pop("", []):
        left_out.add(f"row of {table.name} without a split", row.path)
    if named and set(named) <= set(SPLIT_WORDS):
        parts = {
            split: [
                replace(row, fold=None) for word, part in named.items() if SPLIT_WORDS[word] == split for row in part
            ]
            for split in _ORDER
        }
        return {split: part for split, part in parts.items() if part}
    numbers = {word: as_number(word) for word in named}
    if named and all(number is not None and number.is_integer() for number in numbers.values()):
        return {
            "train": [
                replace(row, fold=str(int(number or 0))) for word, number in numbers.items() for row in named[word]
            ]
        }
    raise DataError(
        f"The column {column!r} of {str(table)!r} says {listed(sorted(named)[:8])}. A split is called one of "
        f"{listed(SPLIT_WORDS)}, and a fold is a whole number."
    )
