"""FER2013: 35,887 grey faces of 48x48 from the web, seven expressions (Goodfellow et al. 2013)."""

from __future__ import annotations

import io
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np

from ..errors import DataError, DataNotFoundError
from .builder import IMAGE_SUFFIXES, FacesBuilder, LeftOut, image_problem, in_shards, logger, walk
from .expressions import FER2013, expression_name
from .labels import described

SIDE = 48
SPLITS = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
TABLES = ("fer2013.csv", "icml_face_data.csv", "train.csv")
_ORDER = ("train", "validation", "test")
_FOLDERS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
_NAMES = {expression_name(name): name for name in FER2013}
_HOW = (
    "FER2013 comes with Kaggle's competition "
    "'challenges-in-representation-learning-facial-expression-recognition-challenge': "
    "download fer2013.csv, icml_face_data.csv or the class folders and point `data_dir` at the folder."
)


class Line(NamedTuple):
    """Where one row of a table of pixels lies in its file."""

    row: int
    offset: int
    length: int


@dataclass
class Fer2013Config(datasets.BuilderConfig):
    """FER2013 has no settings of its own."""


class Fer2013(FacesBuilder):
    """The contest's splits: Training is `train`, PublicTest `validation` and PrivateTest `test`.

    Reads `fer2013.csv`, `icml_face_data.csv`, `train.csv` (with an unlabelled `test.csv` beside it, which is left
    out), or class folders `train/happy/...`, whose official split is recovered from names like `PublicTest_123.jpg`.

    Columns: `image` (48x48, grey), `label` in FER2013's own order, `row` (number of the row in the table, counted from
        0, or
    the number in the file's name).
    """

    BUILDER_CONFIG_CLASS = Fer2013Config
    HOW_TO_OBTAIN = _HOW
    KEEPS_PICTURES = True

    def _info(self) -> datasets.DatasetInfo:
        features = {
            "image": datasets.Image(mode="L"),
            "label": datasets.ClassLabel(names=list(FER2013)),
            "row": datasets.Value("int64"),
        }
        description = described("FER2013: grey faces from the web.", "single_label_classification", FER2013)
        return datasets.DatasetInfo(description=description, features=datasets.Features(features))

    def official_counts(self) -> dict[str, int]:
        """Of the contest: 28,709, 3,589 and 3,589."""
        return {"train": 28709, "validation": 3589, "test": 3589}

    def official_labels(self) -> dict[str, tuple[int, ...]]:
        """Of the contest."""
        return {
            "train": (3995, 436, 4097, 7215, 4830, 3171, 4965),
            "validation": (467, 56, 496, 895, 653, 415, 607),
            "test": (491, 55, 528, 879, 594, 416, 626),
        }

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        folder = Path(self.config.data_dir)
        left_out = LeftOut()
        if table := find_table(folder, TABLES):
            rows = {name: (str(table), in_shards(lines)) for name, lines in index_table(table, left_out).items()}
        else:
            rows = {name: (None, in_shards(found)) for name, found in self._class_folders(folder, left_out).items()}
        self._report(left_out)
        return [
            datasets.SplitGenerator(name=name, gen_kwargs={"shards": rows[name][1], "table": rows[name][0]})
            for name in _ORDER
            if name in rows
        ]

    def _generate_examples(self, shards: list[list[Any]], table: str | None) -> Iterator[tuple[Any, dict]]:
        left_out = LeftOut()
        if table is None:
            for path, label in (item for shard in shards for item in shard):
                if problem := image_problem(path):
                    left_out.add(problem, path)
                    continue
                number = Path(path).stem.rpartition("_")[2]
                yield path, {"image": path, "label": label, "row": int(number) if number.isdecimal() else -1}
        else:
            for row, record in read_lines(Path(table), [line for shard in shards for line in shard]):
                emotion = record.get("emotion", "").strip()
                if emotion not in _IDS:
                    left_out.add("row with an unknown emotion", f"row {row}: {emotion!r}")
                elif (image := picture(record.get("pixels", ""))) is None:
                    left_out.add(f"row without {SIDE * SIDE} pixels from 0 to 255", f"row {row}")
                else:
                    yield row, {"image": {"bytes": image, "path": None}, "label": int(emotion), "row": row}
        self._report(left_out)

    def _class_folders(self, folder: Path, left_out: LeftOut) -> dict[str, list[tuple[str, str]]]:
        found: list[tuple[Path, str, str]] = []  # image, class, split by folder
        images = [path for path in walk(folder) if path.suffix.lower() in IMAGE_SUFFIXES]
        for path in images:
            parts = path.relative_to(folder).parts
            label = _NAMES.get(expression_name(path.parent.name))
            split = next((_FOLDERS[part.lower()] for part in parts[-3::-1] if part.lower() in _FOLDERS), None)
            if label is None:
                left_out.add("image outside a folder named after one of the seven expressions", path)
            elif split is None:
                left_out.add("image outside train/, validation/ and test/", path)
            else:
                found.append((path, label, split))
        if not found:
            tables = ", ".join(TABLES)
            raise DataNotFoundError(
                f"No FER2013 in {str(folder)!r}: looked for {tables}, and for class folders like train/happy/; found "
                f"{len(images)} images elsewhere. {_HOW}"
            )
        official = all(path.name.split("_")[0] in SPLITS for path, _, _ in found)
        if not official:
            logger.warning("The names of these files do not tell FER2013's official split: the folders' own is used.")
        splits = defaultdict(list)
        for path, label, split in found:
            splits[SPLITS[path.name.split("_")[0]] if official else split].append((str(path), label))
        return splits


_IDS = {str(index) for index in range(len(FER2013))}


def find_table(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The first of these files below a folder, nearest first; a name earlier in the list wins."""
    for name in names:
        found = sorted(folder.rglob(name), key=lambda path: (len(path.parts), path))
        if found:
            return found[0]
    return None


def index_table(table: Path, left_out: LeftOut) -> dict[str, list[Line]]:
    """Where the rows of each split lie in a table of pixels, without reading the pixels.

    Raises:
        DataError: there is no header with `emotion` and `pixels`.
    """
    splits: dict[str, list[Line]] = defaultdict(list)
    with table.open("rb") as file:
        header = header_of(file.readline(), table)
        offset = file.tell()
        usage_at = header.index("Usage") if "Usage" in header else None
        for row, line in enumerate(file):
            if line.strip():
                # Pixels hold no comma, so a plain split finds the short columns.
                fields = line.split(b",")
                usage = "Training" if usage_at is None else _field(fields, usage_at)
                if len(fields) != len(header):
                    left_out.add("malformed row", f"row {row}: {len(fields)} fields instead of {len(header)}")
                elif usage in SPLITS:
                    splits[SPLITS[usage]].append(Line(row, offset, len(line)))
                else:
                    left_out.add("row with an unknown usage", f"row {row}: {usage[:20]!r}")
            offset += len(line)
    if not any(splits.values()):
        raise DataError(f"{str(table)!r} has no usable row. Left out: {left_out}.")
    if table.name == "train.csv" and (unlabelled := table.with_name("test.csv")).is_file():
        with unlabelled.open("rb") as file:
            count = sum(1 for line in file if line.strip()) - 1
        left_out.add("row of test.csv, which has no labels", unlabelled.name, count)
    return splits


def header_of(line: bytes, table: Path) -> list[str]:
    """Column names without the spaces that icml_face_data.csv puts before them."""
    header = [name.strip().strip('"') for name in line.decode("utf-8-sig", errors="replace").strip().split(",")]
    if missing := {"emotion", "pixels"} - set(header):
        shown = ", ".join(name[:20] for name in header[:5])
        raise DataError(
            f"{str(table)!r} has no column {sorted(missing)[0]!r}: its first line is {shown!r}. The first line of "
            f"fer2013.csv is "
            "'emotion,pixels,Usage'."
        )
    return header


def read_lines(table: Path, lines: list[Line]) -> Iterator[tuple[int, dict[str, str]]]:
    """Row number and fields of each of these lines."""
    with table.open("rb") as file:
        header = header_of(file.readline(), table)
        for line in lines:
            file.seek(line.offset)
            fields = file.read(line.length).decode("utf-8", errors="replace").strip().split(",")
            yield line.row, dict(zip(header, (field.strip('"') for field in fields), strict=True))


def picture(pixels: str) -> bytes | None:
    """A PNG of the pixels written as text, or `None` if they are not 48 x 48 whole numbers from 0 to 255."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # what NumPy says to text that is no number
        try:
            values = np.fromstring(pixels, dtype=np.int32, sep=" ")
        except (ValueError, DeprecationWarning):
            return None
    if len(values) != SIDE * SIDE or values.min() < 0 or values.max() > 255:
        return None
    png = io.BytesIO()
    Image.fromarray(values.astype(np.uint8).reshape(SIDE, SIDE)).save(png, "PNG", compress_level=1)
    return png.getvalue()


def _field(fields: list[bytes], index: int) -> str:
    return fields[index].decode("utf-8", errors="replace").strip().strip('"') if index < len(fields) else ""
