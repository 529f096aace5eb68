"""AffectNet: faces from the web with one of eight expressions and with arousal and valence (Mollahosseini et al.
2017)."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import datasets

from ..checking import make_plain
from ..door import read_file
from ..errors import DataError, DataNotFoundError, shortened
from .builder import IMAGE_SUFFIXES, FacesBuilder, LeftOut, image_problem, in_shards, logger, walk
from .cropping import cropped
from .expressions import AFFECTNET
from .labels import describe_labels
from .tables import repeated_row, table_rows

__all__ = ["CLASSES", "COLUMNS", "TASKS", "AffectNet", "AffectNetConfig"]

CLASSES = (*AFFECTNET, "none", "uncertain", "no-face")
COLUMNS = (
    *("subDirectory_filePath", "face_x", "face_y", "face_width", "face_height", "facial_landmarks"),
    *("expression", "valence", "arousal"),
)
TASKS = ("categorical", "dimensional", "both")
_TABLES = {
    "train": ("training.csv", "Manually_training.csv"),
    "validation": ("validation.csv", "Manually_validation.csv"),
}
_FOLDERS = {"train": "train_set", "validation": "val_set"}
_MAX_ANNOTATION_BYTES = 2**16  # one number, or one word, and the header of its array
_HOW = (
    "AffectNet is given to researchers by its authors on request. Point `data_dir` at the folder with training.csv, "
    "validation.csv and Manually_Annotated_Images/ (release of 2017), or with train_set/ and val_set/ (2021)."
)
# Faces per class, 0 to 10, in the lists of 2017.
_TRAINING = (74874, 134415, 25459, 14090, 6378, 3803, 24882, 3750, 33088, 11645, 82415)
_VALIDATION = (500,) * 11


@dataclass
class AffectNetConfig(datasets.BuilderConfig):
    """Settings of `AffectNet`.

    Args:
        task: `"categorical"`: `label` is the expression. `"dimensional"`: `label` is `[arousal, valence]`, each in
            [-1, 1]; faces without them are left out, and faces of class none are included. `"both"`: `label` is the
            expression; faces without an expression or without arousal and valence are left out.
        num_classes: 8, or 7 without contempt.
        crop: Cut the face out by its box (only the lists of 2017 have boxes), as a PNG of at most `crop_size` pixels a
            side. Otherwise pictures stay as they are, with the box in `box`.
        crop_size: Longest side of a cut face in pixels, 8 or more.

    Raises:
        DataError: a setting is out of its range.

    Example:
        >>> AffectNetConfig(task="dimensional").crop
        False
    """

    task: str = "categorical"
    num_classes: int = 8
    crop: bool = False
    crop_size: int = 224

    def __post_init__(self) -> None:
        super().__post_init__()
        make_plain(self)
        if self.task not in TASKS:
            raise DataError(f"AffectNet has no task {self.task!r}. Tasks: {', '.join(map(repr, TASKS))}.")
        if self.num_classes not in (7, 8):
            raise DataError(f"AffectNet is read with 8 classes, or 7 without contempt; got {self.num_classes!r}.")
        if not isinstance(self.crop_size, int) or self.crop_size < 8:
            raise DataError(f"`crop_size` must be 8 pixels or more; got {self.crop_size!r}.")


class _Row(NamedTuple):
    path: str
    expression: int
    arousal: float
    valence: float
    box: tuple[int, int, int, int] | None  # x, y, width, height


class AffectNet(FacesBuilder):
    """Reads AffectNet with the splits `train` and `validation`: the test set was never released.

    Reads the lists of 2017 (`training.csv`, `validation.csv`, with or without a header line, and the pictures below
    `Manually_Annotated_Images`), or the folders of 2021 (`train_set/images/1.jpg` with
    `train_set/annotations/1_exp.npy`, `_val`, `_aro`). Class folders made by others are read as `imagefolder`, since
    their numbers and names differ from one to the next.

    Columns: `image`, `label` by `task`, `expression` (0 to 10), `arousal`, `valence` (-2 where there is none), `box`
    (x, y, width, height in pixels; empty where there is none).

    Example:
        >>> import tempfile
        >>> from ciao_peft.data import load_faces, paint_face
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "1").mkdir()
        >>> paint_face(size=32).save(folder / "1" / "a.png")
        >>> row = "1/a.png,0,0,32,32,,1,0.6,0.2"  # picture, box, landmarks, expression, valence, arousal
        >>> for table in ("training.csv", "validation.csv"):
        ...     _ = (folder / table).write_text(row)
        >>> face = next(iter(load_faces("affectnet", folder, streaming=True)["test"]))
        >>> AFFECTNET[face["label"]], face["box"]
        ('happiness', [0, 0, 32, 32])
    """

    BUILDER_CONFIG_CLASS = AffectNetConfig
    config: AffectNetConfig
    HOW_TO_OBTAIN: ClassVar[str] = _HOW

    def _code(self) -> tuple[str, ...]:
        return (table_rows.__module__, cropped.__module__)

    def _info(self) -> datasets.DatasetInfo:
        config = self.config
        names = [*AFFECTNET[: config.num_classes]]
        label: Any = datasets.ClassLabel(names=names)
        problem_type = "single_label_classification"
        if config.task == "dimensional":
            names, problem_type = ["arousal", "valence"], "regression"
            label = datasets.List(datasets.Value("float32"), length=2)
        features = {
            "image": datasets.Image(mode="RGB"),
            "label": label,
            "expression": datasets.ClassLabel(names=list(CLASSES)),
            "arousal": datasets.Value("float32"),
            "valence": datasets.Value("float32"),
            "box": datasets.List(datasets.Value("int32")),
        }
        description = describe_labels("AffectNet: faces from the web.", problem_type, names)
        return datasets.DatasetInfo(description=description, features=datasets.Features(features))

    def official_counts(self) -> dict[str, int]:
        """The counts of the lists of 2017; the release of 2021 has one face less in validation."""
        classes = 9 if self.config.task == "dimensional" else self.config.num_classes
        newer = self._newer_folders()
        if newer and classes == 9:
            classes = 8  # class none is not in it
        validation = sum(_VALIDATION[:classes]) - (1 if newer and classes == 8 else 0)
        return {"train": sum(_TRAINING[:classes]), "validation": validation}

    def official_labels(self) -> dict[str, tuple[int, ...]]:
        """The counts of the lists of 2017; none for the release of 2021 and for arousal and valence."""
        if self.config.task == "dimensional" or self._newer_folders():
            return {}
        classes = self.config.num_classes
        return {"train": _TRAINING[:classes], "validation": _VALIDATION[:classes]}

    def _newer_folders(self) -> dict[str, Path]:
        """`train_set` and `val_set` by split, also one level deeper, as some archives unpack."""
        folders: dict[str, Path] = {}
        for split, name in _FOLDERS.items():
            for path in (self.folder / name, self.folder / name / name):
                if (path / "annotations").is_dir() and (path / "images").is_dir():
                    folders[split] = path
        return folders

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        folder, left_out = self.folder, LeftOut()
        generators = []
        if newer := self._newer_folders():
            if self.config.crop:
                raise DataError(
                    "The release of 2021 has no face boxes: its pictures are cropped already. Leave `crop` out."
                )
            for split, part in newer.items():
                paths = [str(path) for path in walk(part / "images") if path.suffix.lower() in IMAGE_SUFFIXES]
                generators.append((split, {"shards": in_shards(paths), "newer": True}))
        else:
            tables = self._tables(folder)
            for split, table in tables.items():
                rows = _rows_of(table, _image_root(folder, table), left_out)
                generators.append(
                    (split, {"shards": in_shards(self._without_unsuitable(rows, left_out)), "newer": False})
                )
        self._report(left_out)
        return [datasets.SplitGenerator(name=name, gen_kwargs=kwargs) for name, kwargs in generators]

    def _tables(self, folder: Path) -> dict[str, Path]:
        tables: dict[str, Path] = {}
        places = [folder, *sorted(path for path in folder.glob("*/") if path.is_dir()), *sorted(folder.glob("*/*/"))]
        for split, names in _TABLES.items():
            for path in (place / name for place in places for name in names):
                if path.is_file() and split not in tables:
                    tables[split] = path
        if not tables:
            names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            raise DataNotFoundError(
                f"No AffectNet in {str(folder)!r}: looked for training.csv and validation.csv, and for train_set/ and "
                f"val_set/ with images/ and annotations/ in them; found {names}. {_HOW}"
            )
        if "train" not in tables:
            logger.warning("%s has a list of validation faces but none of training faces.", folder)
        return tables

    def _without_unsuitable(self, rows: list[_Row], left_out: LeftOut) -> list[_Row]:
        kept = []
        for row in rows:
            if reason := self._unsuitable(row):
                left_out.add(reason, Path(row.path).name)
            else:
                kept.append(row)
        return kept

    def _unsuitable(self, row: _Row) -> str | None:
        """The reason why this task leaves a face out, if it does."""
        config = self.config
        if config.task == "dimensional":
            if row.expression > 8:
                return f"face of class {CLASSES[row.expression]!r}, which has no arousal and valence"
        elif row.expression >= config.num_classes:
            return f"face of class {CLASSES[row.expression]!r}, which is none of the {config.num_classes} expressions"
        if config.task != "categorical" and not (-1 <= row.arousal <= 1 and -1 <= row.valence <= 1):
            return "face without arousal and valence (-2)"
        if config.crop and (row.box is None or min(row.box[2:]) <= 0):
            return "face without a box to crop"
        return None

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride] - called with gen_kwargs
        self, shards: list[list[Any]], newer: bool
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        left_out = LeftOut()
        for item in (item for shard in shards for item in shard):
            row = _annotated(item, left_out) if newer else item
            if row is None:
                continue
            if newer and (reason := self._unsuitable(row)):
                left_out.add(reason, Path(row.path).name)
                continue
            if problem := image_problem(row.path):
                left_out.add(problem, row.path)
                continue
            image: Any = row.path
            if self.config.crop and (image := cropped(row.path, row.box, self.config.crop_size)) is None:
                left_out.add("face whose box lies outside its picture", row.path)
                continue
            affect = [row.arousal, row.valence]
            yield (
                row.path,
                {
                    "image": image,
                    "label": affect if self.config.task == "dimensional" else row.expression,
                    "expression": row.expression,
                    "arousal": row.arousal,
                    "valence": row.valence,
                    "box": list(row.box or ()),
                },
            )
        self._report(left_out)


def _rows_of(table: Path, root: Path, left_out: LeftOut) -> list[_Row]:
    """The rows of one list, whether or not its first line is a header."""
    rows: list[_Row] = []
    seen: dict[str, _Row] = {}
    names: list[str] = list(COLUMNS)
    for number, fields in enumerate(table_rows(table, errors="replace")):
        if number == 0 and "subDirectory_filePath" in [field.strip() for field in fields]:
            names = [field.strip() for field in fields]
            if missing := [name for name in ("expression", "valence", "arousal") if name not in names]:
                shown = shortened(", ".join(names))
                raise DataError(f"{str(table)!r} has no column {missing[0]!r}. Its header: {shown}.")
            continue
        if not fields:
            continue
        record = dict(zip(names, fields, strict=False)) if len(fields) == len(names) else {}
        row = _row_of(record, root)
        if row is None:
            left_out.add(f"malformed row of {table.name}", f"line {number + 1}")
        elif row.path in seen:
            same = seen[row.path][1:4] == row[1:4]
            left_out.add(repeated_row(table, same), record["subDirectory_filePath"])
        else:
            rows.append(row)
        if row is not None:
            seen.setdefault(row.path, row)
    if not rows:
        raise DataError(f"{str(table)!r} has no row that can be read. Left out: {left_out}.")
    return rows


def _row_of(record: dict[str, str], root: Path) -> _Row | None:
    try:
        expression = int(float(record["expression"]))
        valence, arousal = float(record["valence"]), float(record["arousal"])
        name = record["subDirectory_filePath"].strip()
    except (KeyError, ValueError, OverflowError):
        return None
    if not name or not 0 <= expression < len(CLASSES) or not (math.isfinite(valence) and math.isfinite(arousal)):
        return None
    try:
        x, y, width, height = (round(float(record[key])) for key in COLUMNS[1:5])
        box = (x, y, width, height)
    except (KeyError, ValueError, OverflowError):
        box = None
    return _Row(str(root / name), expression, arousal, valence, box)


def _image_root(folder: Path, table: Path) -> Path:
    """Where the list's picture names start: the first place that has the first pictures of the list."""
    names = []
    column = 0
    for fields in table_rows(table, errors="replace"):
        if (header := [field.strip() for field in fields]) and COLUMNS[0] in header:
            column = header.index(COLUMNS[0])
        elif len(fields) > column and "/" in fields[column]:
            names.append(fields[column].strip())
        if len(names) == 50:
            break
    places = [
        folder,
        table.parent,
        *(place for depth in ("", "*/", "*/*/") for place in sorted(folder.glob(f"{depth}Manually_Annotated_Images"))),
    ]
    for start in (folder, folder.parent):
        places += sorted(path for path in start.glob("*/") if path.is_dir() and "annotated" in path.name.lower())
    for place in places:
        if any((place / name).is_file() for name in names):
            return place
    tried = (
        ", ".join(repr(str(place / names[0])) for place in places[:4]) if names else "nothing: no row names a picture"
    )
    raise DataNotFoundError(
        f"None of the first pictures in {str(table)!r} was found; tried {tried}. Unpack the image archives below "
        f"{str(folder)!r}, so that there is a folder Manually_Annotated_Images."
    )


def _annotated(image: str, left_out: LeftOut) -> _Row | None:
    """The annotations of one picture of 2021: 0-dimensional arrays of numbers or of text."""
    import numpy as np

    path = Path(image)
    values = []
    for kind in ("exp", "val", "aro"):
        file = path.parent.parent / "annotations" / f"{path.stem}_{kind}.npy"
        if not os.path.lexists(file):
            left_out.add(f"picture without its annotation _{kind}.npy", path.name)
            return None
        try:
            content = io.BytesIO(read_file(file, _MAX_ANNOTATION_BYTES))
            values.append(float(np.load(content, allow_pickle=False).item()))
        except (ValueError, TypeError, OSError, EOFError, MemoryError):
            left_out.add("annotation that is no number", file.name)
            return None
    if not all(map(math.isfinite, values)) or not 0 <= values[0] < len(CLASSES) or not values[0].is_integer():
        left_out.add("annotation out of range", path.name)
        return None
    return _Row(image, int(values[0]), values[2], values[1], None)
