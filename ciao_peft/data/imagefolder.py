"""Faces of your own: a folder per class, or a table of labels in the folder of the images."""

from __future__ import annotations

import csv
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets

from ..checking import check_number, make_plain
from ..door import parse_json, read_lines
from ..errors import DataError, DataNotFoundError, FileReadError, shortened
from .builder import HIDDEN, IMAGE_SUFFIXES, FacesBuilder, LeftOut, image_problem, in_shards, walk
from .folder_layout import LAYOUTS, check_class_folders, say_what_is_beside, say_what_is_no_picture
from .labels import describe_labels
from .tables import METADATA, table_records

__all__ = ["ImageFolder", "ImageFolderConfig"]

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_PROBLEMS = {
    "class": "single_label_classification",
    "number": "regression",
    "binary": "multi_label_classification",
}
_NO_LABEL = ("nan", "<na>", "null", "nat", "#n/a")  # how tools write a number that is not there
_DELIMITERS = ",;\t"


@dataclass
class ImageFolderConfig(datasets.BuilderConfig):
    """Settings of `ImageFolder`.

    Args:
        label_column: Column of the metadata with the label; several, joined with a comma, for several values per face.
            Ignored where folders are the classes.
        label_type: `"class"`, `"number"` (regression) or `"binary"` (several labels, each 0 or 1). When left out,
            several columns are binary if they hold nothing but 0 and 1, and numbers otherwise; a single column holds
            numbers if one of them is no whole number, and classes otherwise.
        identity_column: Column of the metadata that says who is in the picture; kept as `identity` if it exists.
        min_images_per_class: Classes with fewer training images are dropped from every split, and reported. 0 keeps
            all.

    Raises:
        DataError: a setting has the wrong type or is out of its range.

    Example:
        >>> ImageFolderConfig(label_column="arousal, valence").label_columns
        ['arousal', 'valence']
    """

    label_column: str | Sequence[str] = "label"
    label_type: str | None = None
    identity_column: str = "identity"
    min_images_per_class: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        make_plain(self)
        if self.label_type not in (None, "class", "number", "binary"):
            raise DataError(f"`label_type` must be 'class', 'number', 'binary' or left out; got {self.label_type!r}.")
        check_number("min_images_per_class", self.min_images_per_class, int, 0, error=DataError)
        column = self.label_column
        texts = [column] if isinstance(column, str) else column
        if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"`label_column` must be a column's name, or a list of names, as text; got {column!r}.")
        if not self.label_columns:
            raise DataError(f"`label_column` must name at least one column; got {column!r}.")
        if not isinstance(self.identity_column, str):
            raise DataError(f"`identity_column` must be a column's name, as text; got {self.identity_column!r}.")

    @property
    def label_columns(self) -> list[str]:
        """Names of the columns with labels, one by one."""
        names = self.label_column.split(",") if isinstance(self.label_column, str) else list(self.label_column)
        return [name.strip() for name in names if name.strip()]


@dataclass(frozen=True)
class _Row:
    path: str
    labels: tuple[str, ...]
    identity: str | None


class ImageFolder(FacesBuilder):
    """Reads a folder of images, with the splits that are in it.

    Columns: `image`, `label` and, where the metadata has it, `identity`. Classes are numbered in the alphabetical order
    of their names, over all splits. Images are kept as paths. Left out and reported: files that are no readable image,
    rows without a label or without their file, images that no row names, and classes with too few training images.

    Example:
        >>> import tempfile
        >>> from ciao_peft.data import load_faces, paint_face
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("calm", "glad"):
        ...     (folder / "train" / name).mkdir(parents=True)
        ...     paint_face(size=32).save(folder / "train" / name / "a.png")
        >>> faces = load_faces("imagefolder", folder, min_images_per_class=1, streaming=True)["train"]
        >>> faces.features["label"].names, [face["label"] for face in faces]
        (['calm', 'glad'], [0, 1])
    """

    BUILDER_CONFIG_CLASS = ImageFolderConfig
    config: ImageFolderConfig

    def _code(self) -> tuple[str, ...]:
        return (check_class_folders.__module__, table_records.__module__)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo()  # the features follow from the files

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        left_out = LeftOut()
        splits = self._rows_by_split(self.folder, left_out)
        kind = self._kind_of_label(splits)
        classes = kind == "class"
        if classes:
            splits = {name: self._class_rows(rows, left_out) for name, rows in splits.items()}
            if not any(splits.values()):
                raise DataError(f"No row of {str(self.folder)!r} has a label. Left out: {left_out}.")
            self._name_numbers_once(splits)
            self._drop_small_classes(splits, left_out)
        splits = {name: rows for name, rows in splits.items() if rows}
        identities = any(row.identity is not None for rows in splits.values() for row in rows)
        self._set_features(splits, kind, identities)
        self._report(left_out)
        return [
            datasets.SplitGenerator(
                name=name, gen_kwargs={"shards": in_shards(rows), "classes": classes, "who": identities}
            )
            for name, rows in splits.items()
        ]

    def _set_features(self, splits: dict[str, list[_Row]], kind: str, identities: bool) -> None:
        if kind == "class":
            names = sorted({row.labels[0] for rows in splits.values() for row in rows})
            label: Any = datasets.ClassLabel(names=names)
        else:
            names = self.config.label_columns
            label = datasets.List(datasets.Value("float32"), length=len(names))
        features = {"image": datasets.Image(), "label": label}
        if identities:
            features["identity"] = datasets.Value("string")
        self.info.features = datasets.Features(features)
        self.info.description = describe_labels("Images of a folder.", _PROBLEMS[kind], names)

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride] - called with gen_kwargs
        self, shards: list[list[_Row]], classes: bool, who: bool
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        left_out = LeftOut()
        for shard in shards:
            for row in shard:
                if problem := image_problem(row.path):
                    left_out.add(problem, row.path)
                    continue
                example: dict[str, Any] = {"image": row.path}
                example["label"] = row.labels[0] if classes else [float(value) for value in row.labels]
                if who:
                    example["identity"] = row.identity
                yield row.path, example
        self._report(left_out)

    def _rows_by_split(self, folder: Path, left_out: LeftOut) -> dict[str, list[_Row]]:
        parts: dict[str, list[Path]] = defaultdict(list)
        for child in sorted(folder.iterdir()):
            if child.is_dir() and child.name.lower() in _SPLIT_NAMES:
                parts[_SPLIT_NAMES[child.name.lower()]].append(child)
        for name, folders in parts.items():
            if len(folders) > 1:
                both = " and ".join(repr(path.name) for path in folders)
                raise DataError(
                    f"{str(folder)!r} holds {both}, which both mean the {name} split. Rename or remove one."
                )
        if parts:
            say_what_is_beside(folder, [folders[0] for folders in parts.values()], left_out)
            return {
                name: self._rows_of(folders[0], left_out) for name, folders in sorted(parts.items(), key=_split_order)
            }
        return {"train": self._rows_of(folder, left_out)}

    def _rows_of(self, folder: Path, left_out: LeftOut) -> list[_Row]:
        tables = [folder / name for name in METADATA if os.path.lexists(folder / name)]
        if len(tables) > 1:
            raise DataError(f"{str(folder)!r} has both a metadata.csv and a metadata.jsonl. Keep one of them.")
        files = walk(folder)
        images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        if not images:
            raise DataNotFoundError(f"No image in {str(folder)!r} ({len(files)} other files). {LAYOUTS}.")
        say_what_is_no_picture((path for path in files if path not in tables), left_out)
        if tables:
            return self._rows_of_table(tables[0], images, left_out)
        check_class_folders(folder, images)
        rows = []
        for path in images:
            if path.parent == folder:
                left_out.add("image outside any class folder", path)
            else:
                rows.append(_Row(str(path), (path.relative_to(folder).parts[0],), None))
        if not rows:
            raise DataError(f"{str(folder)!r} has images but neither class folders nor metadata. {LAYOUTS}.")
        return rows

    def _rows_of_table(self, table: Path, images: list[Path], left_out: LeftOut) -> list[_Row]:
        header, records = _read_table(table, left_out)
        needed = ["file_name", *self.config.label_columns]
        if missing := [name for name in needed if name not in header]:
            if "file_name" not in header:
                _refuse_other_separators(table)
            raise DataError(
                f"{str(table)!r} has no column {missing[0]!r}. Its columns: {', '.join(map(repr, header)) or 'none'}. "
                "Name the one with the labels with `label_column` (`--label_column`)."
            )
        image_paths = {str(path) for path in images}
        rows: dict[str, _Row] = {}
        for record in records:
            path = _named_file(table, record)
            labels = tuple(_text(record.get(name)) for name in self.config.label_columns)
            if path in rows:
                left_out.add(f"repeated row of {table.name}", record["file_name"])
            elif path not in image_paths and not self._is_seen(path):
                left_out.add(
                    f"row of {table.name} that names a file hidden or outside the folder", record.get("file_name")
                )
            elif path not in image_paths and not os.path.isfile(path):
                left_out.add(f"row of {table.name} without its file", record.get("file_name"))
            elif not all(labels):
                left_out.add(f"row of {table.name} without a label", record["file_name"])
            else:
                rows[path] = _Row(path, labels, _text(record.get(self.config.identity_column)) or None)
        if unnamed := sorted(image_paths - set(rows) - {_named_file(table, record) for record in records}):
            left_out.add(f"image that {table.name} does not name", unnamed[0], len(unnamed))
        if not rows:
            raise DataError(f"No row of {str(table)!r} has both its image and a label. Left out: {left_out}.")
        return list(rows.values())

    def _is_seen(self, path: str) -> bool:
        """Whether the path lies in the folder and is not hidden: no other file's change is seen at the next load."""
        folder = self.folder
        parts = Path(path).relative_to(folder).parts if Path(path).is_relative_to(folder) else (".",)
        return not any(part.startswith(HIDDEN) for part in parts)

    def _kind_of_label(self, splits: dict[str, list[_Row]]) -> str:
        kind, columns = self.config.label_type, self.config.label_columns
        rows = [row for part in splits.values() for row in part]
        if len(columns) == 1 and kind is None:
            rows = [row for row in rows if row.labels[0].lower() not in _NO_LABEL]
        values = [[_number(text) for text in row.labels] for row in rows]
        if kind == "class" and len(columns) > 1:
            raise DataError(f"Classes come from one column; `label_column` names {len(columns)}: {', '.join(columns)}.")
        if kind is None and len(columns) == 1:
            numbers = [value for (value,) in values if value is not None]
            numeric = len(numbers) == len(values)
            kind = "number" if numeric and not all(map(float.is_integer, numbers)) else "class"
            rows = [row for part in splits.values() for row in part]
            values = [[_number(text) for text in row.labels] for row in rows]
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

    def _class_rows(self, rows: list[_Row], left_out: LeftOut) -> list[_Row]:
        """The rows of a table that have a class; a missing number is none."""
        kept = [row for row in rows if row.labels[0].lower() not in _NO_LABEL]
        for row in rows:
            if row.labels[0].lower() in _NO_LABEL:
                left_out.add(f"row without a label ({row.labels[0]})", Path(row.path).name)
        return kept

    def _name_numbers_once(self, splits: dict[str, list[_Row]]) -> None:
        """Gives equal numbers one name, where all classes are whole numbers: 1 and 1.0 are one class."""
        texts = sorted({row.labels[0] for rows in splits.values() for row in rows}, key=lambda text: (len(text), text))
        numbers = [(_number(text), text) for text in texts]
        if not all(number is not None and number.is_integer() for number, _ in numbers):
            return
        names: dict[float | None, str] = {}
        for number, text in numbers:
            names.setdefault(number, text if text.isdigit() else str(int(number or 0)))
        for split, rows in splits.items():
            splits[split] = [replace(row, labels=(names[_number(row.labels[0])],)) for row in rows]

    def _drop_small_classes(self, splits: dict[str, list[_Row]], left_out: LeftOut) -> None:
        least = self.config.min_images_per_class
        first = "train" if splits.get("train") else next(iter(splits))
        train = Counter(row.labels[0] for row in splits[first])
        names = {row.labels[0] for rows in splits.values() for row in rows}
        small = sorted(name for name in names if train[name] < least)
        if len(small) == len(names) and names:
            sizes = ", ".join(f"{name}: {train[name]}" for name in small[:20])
            raise DataError(
                f"Every class has fewer than {least} training images ({sizes}). Lower `min_images_per_class`."
            )
        for name in small:
            counts = {split: sum(row.labels[0] == name for row in rows) for split, rows in splits.items()}
            where = ", ".join(f"{count} in {split}" for split, count in counts.items() if count)
            reason = f"image of class {name!r} ({train[name]} training images, {least} are needed)"
            left_out.add(reason, where, sum(counts.values()))
        for split, rows in splits.items():
            splits[split] = [row for row in rows if row.labels[0] not in small]


def _split_order(item: tuple[str, Any]) -> int:
    return ("train", "validation", "test").index(item[0])


def _named_file(table: Path, record: dict[str, Any]) -> str:
    return os.path.normpath(table.parent / str(record.get("file_name") or ""))


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _delimiter(header: str) -> str:
    """The separator with which a header names the column of the files; a comma where none does."""
    for delimiter in _DELIMITERS:
        try:
            names = next(csv.reader([header], delimiter=delimiter), [])
        except csv.Error:  # a field beyond what csv takes, by this separator; whoever reads the table says so
            continue
        if "file_name" in [name.strip() for name in names]:
            return delimiter
    return ","


def _with_points(record: dict[str, Any]) -> dict[str, Any]:
    """Where a semicolon separates the columns, a comma may be the decimal sign."""
    return {
        name: value.replace(",", ".") if re.fullmatch(r"\s*[+-]?\d*,\d+\s*", value) else value
        for name, value in record.items()
    }


def _refuse_other_separators(table: Path) -> None:
    header = next(read_lines(table, error=DataError), "")
    if table.suffix == ".csv" and (found := next((sign for sign in ";\t|" if sign in header), None)):
        raise DataError(
            f"{str(table)!r} has no column 'file_name'. Its header looks as if {found!r} separated its columns, and "
            f"reads {shortened(header.strip())}. Columns are separated by a comma, a semicolon or a tab, and the one "
            "with the names of the files is called `file_name`."
        )


def _read_table(table: Path, left_out: LeftOut) -> tuple[list[str], list[dict[str, Any]]]:
    records: list[dict[str, Any]] = []
    if table.suffix == ".csv":
        header, delimiter, rows = table_records(table, _delimiter)
        for number, record in rows:
            if None in record or None in record.values():  # too many fields, or too few
                left_out.add(f"malformed row of {table.name}", f"line {number}")
            else:
                full: dict[str, Any] = {str(name): value for name, value in record.items()}
                records.append(_with_points(full) if delimiter == ";" else full)
        return header, records
    for number, line in enumerate(read_lines(table, error=DataError), start=1):
        if not line.strip():
            continue
        try:
            record = parse_json(line, table)
        except FileReadError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            left_out.add(f"malformed row of {table.name}", f"line {number}")
    return sorted({name for record in records for name in record}), records
