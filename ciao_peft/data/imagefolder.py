"""Faces of your own: a folder per class, or a table of labels in the folder of the images."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import datasets

from ..checking import check_number, make_plain
from ..door import read_lines
from ..errors import DataError, DataNotFoundError, listed, quoted, shortened
from .builder import IMAGE_SUFFIXES, VIDEO_SUFFIXES, FacesBuilder, LeftOut, image_problem, in_shards, walk
from .folder_layout import LAYOUTS, SPLIT_NAMES, check_class_folders, say_what_is_beside, say_what_is_not_read
from .labels import describe_labels
from .named_rows import NamedColumns, named_rows
from .rows import PROBLEMS, Row, labelled
from .tables import METADATA, Table, read_table

__all__ = ["ImageFolder", "ImageFolderConfig"]


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
        min_images_per_class: Classes with fewer training images are dropped from every split, and reported with their
            numbers. 0 keeps all.
        label_map: What classes are called, `{"HAPPY": "happy"}`; `None` in place of a name leaves a class out. Two
            classes that differ only in case or spaces are refused, unless one of them is mapped to itself.

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
    label_map: dict[str, str | None] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        make_plain(self)
        if self.label_type not in (None, "class", "number", "binary"):
            raise DataError(f"`label_type` must be 'class', 'number', 'binary' or left out; got {self.label_type!r}.")
        check_number("min_images_per_class", self.min_images_per_class, int, 0, error=DataError)
        if self.label_map is not None and not _is_map(self.label_map):
            raise DataError(
                f'`label_map` maps names to names, such as {{"HAPPY": "happy"}}; got {quoted(self.label_map)}.'
            )
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
    SUFFIXES: ClassVar[tuple[str, ...]] = IMAGE_SUFFIXES  # of the files that are read
    NOUN: ClassVar[str] = "image"
    SHARD: ClassVar[int] = 512  # rows that one process reads at a time

    def _code(self) -> tuple[str, ...]:
        return tuple(part.__module__ for part in (check_class_folders, read_table, named_rows, labelled))

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo()  # the features follow from the files

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        left_out = LeftOut()
        splits = self._rows_by_split(self.folder, left_out)
        splits, kind = labelled(splits, self.config, left_out, str(self.folder), self.NOUN)
        identities = any(row.identity is not None for rows in splits.values() for row in rows)
        self._set_features(splits, kind, identities)
        self._report(left_out)
        given = {"classes": kind == "class", "who": identities}
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"shards": in_shards(rows, self.SHARD), **given})
            for name, rows in splits.items()
        ]

    def _set_features(self, splits: dict[str, list[Row]], kind: str, identities: bool) -> None:
        if kind == "class":
            names = sorted({row.labels[0] for rows in splits.values() for row in rows})
            label: Any = datasets.ClassLabel(names=names)
        else:
            names = self.config.label_columns
            label = datasets.List(datasets.Value("float32"), length=len(names))
        features = {"image": datasets.Image(), "label": label}
        if identities:
            features["identity"] = datasets.Value("string")
        features |= self._more_features(splits)
        self.info.features = datasets.Features(features)
        self.info.description = describe_labels(f"{self.NOUN.capitalize()}s of a folder.", PROBLEMS[kind], names)

    def _more_features(self, splits: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
        return {}

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride] - called with gen_kwargs
        self, shards: list[list[Row]], classes: bool, who: bool
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        left_out = LeftOut()
        for shard in shards:
            for row in shard:
                if problem := image_problem(row.path):
                    left_out.add(problem, row.path)
                    continue
                yield row.path, {"image": row.path, **self._labels_of(row, classes, who)}
        self._report(left_out)

    def _labels_of(self, row: Row, classes: bool, who: bool) -> dict[str, Any]:
        """What an example says of its picture."""
        said: dict[str, Any] = {"label": row.labels[0] if classes else [float(value) for value in row.labels]}
        if who:
            said["identity"] = row.identity
        if row.fold is not None:
            said["fold"] = row.fold
        return said

    def _rows_by_split(self, folder: Path, left_out: LeftOut) -> dict[str, list[Row]]:
        parts: dict[str, list[Path]] = defaultdict(list)
        for child in sorted(folder.iterdir()):
            if child.is_dir() and child.name.lower() in SPLIT_NAMES:
                parts[SPLIT_NAMES[child.name.lower()]].append(child)
        for name, folders in parts.items():
            if len(folders) > 1:
                both = " and ".join(repr(path.name) for path in folders)
                raise DataError(
                    f"{str(folder)!r} holds {both}, which both mean the {name} split. Rename or remove one."
                )
        if parts:
            say_what_is_beside(folder, [folders[0] for folders in parts.values()], left_out, self.SUFFIXES)
            return {
                name: self._rows_of(folders[0], left_out) for name, folders in sorted(parts.items(), key=_split_order)
            }
        return {"train": self._rows_of(folder, left_out)}

    def _rows_of(self, folder: Path, left_out: LeftOut) -> list[Row]:
        tables = [folder / name for name in METADATA if os.path.lexists(folder / name)]
        if len(tables) > 1:
            raise DataError(f"{str(folder)!r} has both a metadata.csv and a metadata.jsonl. Keep one of them.")
        files = walk(folder)
        wanted = [path for path in files if path.suffix.lower() in self.SUFFIXES]
        if not wanted:
            videos = self.NOUN == "image" and any(path.suffix.lower() in VIDEO_SUFFIXES for path in files)
            other = " There are videos, which `load_faces('videofolder', ...)` reads." if videos else ""
            raise DataNotFoundError(
                f"No {self.NOUN} in {str(folder)!r} ({len(files)} other files).{other} {self._layouts()}."
            )
        say_what_is_not_read((path for path in files if path not in tables), left_out, self.SUFFIXES)
        if tables:
            return self._rows_of_table(tables[0], wanted, left_out)
        check_class_folders(folder, wanted)
        rows = []
        for path in wanted:
            if path.parent == folder:
                left_out.add(f"{self.NOUN} outside any class folder", path)
            else:
                rows.append(Row(str(path), (path.relative_to(folder).parts[0],), None))
        if not rows:
            raise DataError(
                f"{str(folder)!r} has {self.NOUN}s but neither class folders nor metadata. {self._layouts()}."
            )
        return rows

    def _layouts(self) -> str:
        return LAYOUTS.replace("image", self.NOUN)

    def _rows_of_table(self, table: Path, files: list[Path], left_out: LeftOut) -> list[Row]:
        read = read_table(table, left_out)
        if "file_name" not in read.columns:
            _refuse_without_files(table, read)
        return self._named_rows(table, read, "file_name", table.parent, files, left_out)

    def _named_rows(
        self, table: Path, read: Table, file_column: str, base: Path, files: list[Path], left_out: LeftOut
    ) -> list[Row]:
        """The rows of a table that have both their file and a label."""
        config = self.config
        return named_rows(
            table,
            read,
            NamedColumns(file_column, tuple(config.label_columns), config.identity_column, self._fold_column()),
            base,
            self.folder,
            files,
            left_out,
            self.NOUN,
        )

    def _fold_column(self) -> str | None:
        """The column that says which part of the data a row is in, where a setting names one."""
        return None


def _is_map(value: Any) -> bool:
    """Whether a value, from a config that anyone may write, maps names to names."""
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and (other is None or (isinstance(other, str) and other.strip() != ""))
        for name, other in cast("Mapping[Any, Any]", value).items()
    )


def _split_order(item: tuple[str, Any]) -> int:
    return ("train", "validation", "test").index(item[0])


def _refuse_without_files(table: Path, read: Table) -> None:
    header = next(read_lines(table, error=DataError), "")
    found = next((sign for sign in ";\t|" if sign in header), None) if table.suffix == ".csv" else None
    looks = (
        f" Its header looks as if {found!r} separated its columns, and reads {shortened(header.strip())}."
        if found
        else ""
    )
    raise DataError(
        f"{str(table)!r} has no column 'file_name'. Its columns: {listed(read.columns)}.{looks} A table with other "
        "columns is read with `load_faces(csv=..., image_column=...)` (`--csv`, `--image_column`)."
    )
