"""FER2013: 35,887 grey faces of 48x48 from the web, seven expressions (Goodfellow et al. 2013)."""

from __future__ import annotations

import io
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import datasets
import numpy as np

from ..door import MAX_TABLE_BYTES, bounded_lines, open_file
from ..errors import DataError, DataNotFoundError
from .builder import IMAGE_SUFFIXES, FacesBuilder, LeftOut, image_problem, in_shards, logger, walk
from .expressions import FER2013, expression_name
from .labels import describe_labels

__all__ = [
    "SIDE",
    "SPLITS",
    "TABLES",
    "Fer2013",
    "Fer2013Config",
    "Line",
    "find_table",
    "header_of",
    "index_table",
    "png_of_pixels",
    "read_lines",
]

SIDE = 48
SPLITS = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
TABLES = ("fer2013.csv", "icml_face_data.csv", "train.csv")
_ORDER = ("train", "validation", "test")
_FOLDERS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
_NAMES = {expression_name(name): name for name in FER2013}
_HOW = (
    "FER2013 comes with Kaggle's competition "
    "'challenges-in-representation-learning-facial-expression-recognition-challenge': download fer2013.csv, "
    "icml_face_data.csv or the class folders and point `data_dir` at the folder."
)


class Line(NamedTuple):
    """The place of one row of a table of pixels in its file.

    Args:
        row: Number of the row, counted from 0 below the header.
        offset: Bytes before it.
        length: Its bytes.
    """

    row: int
    offset: int
    length: int


@dataclass
class Fer2013Config(datasets.BuilderConfig):
    """FER2013 has no settings of its own."""


class Fer2013(FacesBuilder):
    """Reads FER2013 with the contest's splits: Training is `train`, PublicTest `validation`, PrivateTest `test`.

    Reads `fer2013.csv`, `icml_face_data.csv`, `train.csv` (an unlabelled `test.csv` in the same folder is left
    out), or class folders `train/happy/...`, whose official split is recovered from names like `PublicTest_123.jpg`.

    Columns: `image` (48x48, grey), `label` in FER2013's own order, `row` (number of the row in the table, counted from
    0, or the number in the file's name; -1 where it has none).

    Example:
        >>> import tempfile
        >>> from ciao_peft.data import load_faces
        >>> folder = Path(tempfile.mkdtemp())
        >>> pixels = " ".join(["128"] * 48 * 48)
        >>> _ = (folder / "fer2013.csv").write_text("emotion,pixels,Usage\\n3," + pixels + ",PrivateTest\\n")
        >>> face = next(iter(load_faces("fer2013", folder, streaming=True)["test"]))
        >>> face["image"].size, FER2013[face["label"]], face["row"]
        ((48, 48), 'happy', 0)
    """

    BUILDER_CONFIG_CLASS = Fer2013Config
    config: Fer2013Config
    HOW_TO_OBTAIN: ClassVar[str] = _HOW
    KEEPS_PICTURES: ClassVar[bool] = True

    def _info(self) -> datasets.DatasetInfo:
        features = {
            "image": datasets.Image(mode="L"),
            "label": datasets.ClassLabel(names=list(FER2013)),
            "row": datasets.Value("int64"),
        }
        description = describe_labels("FER2013: grey faces from the web.", "single_label_classification", FER2013)
        return datasets.DatasetInfo(description=description, features=datasets.Features(features))

    def official_counts(self) -> dict[str, int]:
        """The contest's: 28,709, 3,589 and 3,589 faces."""
        return {"train": 28709, "validation": 3589, "test": 3589}

    def official_labels(self) -> dict[str, tuple[int, ...]]:
        """The contest's faces per label."""
        return {
            "train": (3995, 436, 4097, 7215, 4830, 3171, 4965),
            "validation": (467, 56, 496, 895, 653, 415, 607),
            "test": (491, 55, 528, 879, 594, 416, 626),
        }

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        folder = self.folder
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

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride] - called with gen_kwargs
        self, shards: list[list[Any]], table: str | None
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
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
                elif (image := png_of_pixels(record.get("pixels", ""))) is None:
                    left_out.add(f"row without {SIDE * SIDE} pixels from 0 to 255", f"row {row}")
                else:
                    yield row, {"image": {"bytes": image, "path": None}, "label": int(emotion), "row": row}
        self._report(left_out)

    def _class_folders(self, folder: Path, left_out: LeftOut) -> dict[str, list[tuple[str, str]]]:
        rows: list[tuple[Path, str, str]] = []  # image, class, split by folder
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
                rows.append((path, label, split))
        if not rows:
            tables = ", ".join(TABLES)
            raise DataNotFoundError(
                f"No FER2013 in {str(folder)!r}: looked for {tables}, and for class folders like train/happy/; found "
                f"{len(images)} images elsewhere. {_HOW}"
            )
        official = all(path.name.split("_")[0] in SPLITS for path, _, _ in rows)
        if not official:
            logger.warning("The names of these files do not tell FER2013's official split: the folders' own is used.")
        splits: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for path, label, split in rows:
            splits[SPLITS[path.name.split("_")[0]] if official else split].append((str(path), label))
        return splits


_IDS = {str(index) for index in range(len(FER2013))}


def find_table(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Finds the first of some files below a folder, the nearest to the top first.

    Args:
        folder: Where to look, at any depth.
        names: Names of files; one earlier in the list wins.

    Returns:
        The file, or `None` if there is none of them.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "train.csv").touch()
        >>> find_table(folder, TABLES).name
        'train.csv'
    """
    for name in names:
        if tables := sorted(folder.rglob(name), key=lambda path: (len(path.parts), path)):
            return tables[0]
    return None


def index_table(table: Path, left_out: LeftOut) -> dict[str, list[Line]]:
    """Finds the rows of each split in a table of pixels, without reading the pixels.

    Args:
        table: A file with a header and the columns `emotion`, `pixels` and, perhaps, `Usage`.
        left_out: Counts malformed rows.

    Returns:
        The place of each row by split; every row is in `train` where there is no column `Usage`.

    Raises:
        DataError: there is no header with `emotion` and `pixels`, or no row that can be used.
    """
    splits: dict[str, list[Line]] = defaultdict(list)
    with open_file(table, MAX_TABLE_BYTES, error=DataError) as file:
        rows = bounded_lines(file, table, error=DataError)
        header = header_of(next(rows, b""), table)
        offset = file.tell()
        usage_at = header.index("Usage") if "Usage" in header else None
        for row, line in enumerate(rows):
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
        with open_file(unlabelled, MAX_TABLE_BYTES, error=DataError) as file:
            count = sum(1 for line in bounded_lines(file, unlabelled, error=DataError) if line.strip()) - 1
        left_out.add("row of test.csv, which has no labels", unlabelled.name, count)
    return splits


def header_of(line: bytes, table: Path) -> list[str]:
    """Splits the first line of a table into column names, without the spaces of icml_face_data.csv.

    Args:
        line: The first line of the file.
        table: The file, for the message.

    Raises:
        DataError: there is no column `emotion` or `pixels`.

    Example:
        >>> header_of(b"emotion, Usage, pixels", Path("icml_face_data.csv"))
        ['emotion', 'Usage', 'pixels']
    """
    header = [name.strip().strip('"') for name in line.decode("utf-8-sig", errors="replace").strip().split(",")]
    if missing := {"emotion", "pixels"} - set(header):
        shown = ", ".join(name[:20] for name in header[:5])
        raise DataError(
            f"{str(table)!r} has no column {sorted(missing)[0]!r}: its first line is {shown!r}. The first line of "
            "fer2013.csv is 'emotion,pixels,Usage'."
        )
    return header


def read_lines(table: Path, lines: list[Line]) -> Iterator[tuple[int, dict[str, str]]]:
    """Reads some rows of a table of pixels.

    Args:
        table: The file.
        lines: Which rows, as `index_table` returns them.

    Yields:
        The number of the row, and its fields by column name.
    """
    with open_file(table, MAX_TABLE_BYTES, error=DataError) as file:
        header = header_of(next(bounded_lines(file, table, error=DataError), b""), table)
        for line in lines:
            file.seek(line.offset)
            fields = file.read(line.length).decode("utf-8", errors="replace").strip().split(",")
            yield line.row, dict(zip(header, (field.strip('"') for field in fields), strict=True))


def png_of_pixels(pixels: str) -> bytes | None:
    """Turns pixels written as text into a PNG file of 48 x 48 grey pixels.

    Args:
        pixels: 2,304 whole numbers from 0 to 255 with spaces between them, row by row.

    Returns:
        The bytes of the PNG, or `None` if the text is something else.

    Example:
        >>> png_of_pixels(" ".join(["128"] * 48 * 48))[1:4]
        b'PNG'
        >>> png_of_pixels("1 2 3") is None
        True
    """
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
