"""ExpW: 91,793 faces in pictures found on the web, with seven expressions (Zhang et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import datasets

from ..checking import check_flag, check_number
from ..door import read_lines
from ..errors import DataError, DataNotFoundError
from .builder import IMAGE_SUFFIXES, FacesBuilder, LeftOut, image_problem, in_shards, walk
from .cropping import cropped
from .expressions import EXPW
from .labels import describe_labels
from .tables import repeated_row

__all__ = ["ExpW", "ExpWConfig"]

_LIST = "label.lst"
_HOW = (
    "ExpW is given to researchers by its authors (mmlab.ie.cuhk.edu.hk, 'From Facial Expression Recognition to "
    "Interpersonal Relation Prediction'). Unpack the pictures and point `data_dir` at the folder with label.lst."
)


@dataclass
class ExpWConfig(datasets.BuilderConfig):
    """Settings of `ExpW`.

    Args:
        crop: Cut each face out by its box; a picture may hold several. Otherwise pictures stay as they are.
        crop_size: Longest side of a cut face in pixels, 8 or more.
        min_confidence: Leave out faces that the detector was less sure of; they run from below 0 to above 100.

    Raises:
        DataError: a setting is out of its range.

    Example:
        >>> ExpWConfig(min_confidence=20).crop
        True
    """

    crop: bool = True
    crop_size: int = 224
    min_confidence: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("crop", self.crop)
        check_number("crop_size", self.crop_size, int, 8, error=DataError)
        if self.min_confidence is not None:
            check_number("min_confidence", self.min_confidence, float, error=DataError)


class _Face(NamedTuple):
    path: str
    picture: str
    number: int
    box: tuple[int, int, int, int]  # x, y, width, height
    confidence: float
    label: int


class ExpW(FacesBuilder):
    """Reads ExpW as one split `train`, since nobody published others: divide it with `test_fraction`.

    A line of `label.lst` has eight fields: the picture, the number of the face in it, the top, left, right and bottom
    edge of its box, the detector's confidence, and the label. Pictures lie anywhere below `data_dir`.

    Columns: `image`, `label` (angry, disgust, fear, happy, sad, surprise, neutral), `picture` (its name; faces of one
    picture stay together when a test split is held out), `face` (the number in it), `box` (x, y, width, height in
    pixels) and `confidence`.

    Example:
        >>> import tempfile
        >>> from ciao_peft.data import load_faces, paint_face
        >>> folder = Path(tempfile.mkdtemp())
        >>> paint_face(size=64).save(folder / "laughing_2.jpg")
        >>> _ = (folder / "label.lst").write_text("laughing_2.jpg 0 8 10 50 60 38.2 3")
        >>> face = next(iter(load_faces("expw", folder, streaming=True)["train"]))
        >>> EXPW[face["label"]], face["box"], face["image"].size
        ('happy', [10, 8, 40, 52], (40, 52))
    """

    BUILDER_CONFIG_CLASS = ExpWConfig
    config: ExpWConfig
    HOW_TO_OBTAIN: ClassVar[str] = _HOW

    def _code(self) -> tuple[str, ...]:
        return (cropped.__module__,)

    def _info(self) -> datasets.DatasetInfo:
        features = {
            "image": datasets.Image(mode="RGB"),
            "label": datasets.ClassLabel(names=list(EXPW)),
            "picture": datasets.Value("string"),
            "face": datasets.Value("int32"),
            "box": datasets.List(datasets.Value("int32")),
            "confidence": datasets.Value("float32"),
        }
        description = describe_labels("ExpW: faces in pictures of the web.", "single_label_classification", EXPW)
        return datasets.DatasetInfo(description=description, features=datasets.Features(features))

    def official_counts(self) -> dict[str, int]:
        """91,793 faces; none with `min_confidence`."""
        return {} if self.config.min_confidence is not None else {"train": 91793}

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        left_out = LeftOut()
        files = walk(self.folder)
        images = {path.name: str(path) for path in reversed(files) if path.suffix.lower() in IMAGE_SUFFIXES}
        table = min(
            (path for path in files if path.name == _LIST), key=lambda path: (len(path.parts), path), default=None
        )
        if table is None:
            raise DataNotFoundError(
                f"No ExpW in {str(self.folder)!r}: looked for {_LIST}, found {len(images)} images and "
                f"{len(files) - len(images)} other files. {_HOW}"
            )
        faces = list(self._faces(table, images, left_out))
        if not faces:
            raise DataError(f"No row of {str(table)!r} has its picture. Left out: {left_out}. {_HOW}")
        self._report(left_out)
        return [datasets.SplitGenerator(name="train", gen_kwargs={"shards": in_shards(faces)})]

    def _faces(self, table: Path, images: dict[str, str], left_out: LeftOut) -> Iterator[_Face]:
        seen: dict[tuple[str, int], int] = {}
        for number, line in enumerate(read_lines(table, errors="replace", error=DataError), start=1):
            fields = line.split()
            if not fields:
                continue
            face = _face_of(fields, images)
            if face is None:
                left_out.add(f"malformed row of {table.name}", f"line {number}")
            elif not face.path:
                left_out.add(f"row of {table.name} without its picture", face.picture)
            elif (face.picture, face.number) in seen:
                same = seen[face.picture, face.number] == face.label
                left_out.add(repeated_row(table, same), f"{face.picture} {face.number}")
            elif self.config.min_confidence is not None and face.confidence < self.config.min_confidence:
                left_out.add(f"face with a confidence below {self.config.min_confidence}", face.picture)
            else:
                yield face
            if face is not None:
                seen.setdefault((face.picture, face.number), face.label)

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride] - called with gen_kwargs
        self, shards: list[list[_Face]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        left_out = LeftOut()
        for face in (_Face(*item) for shard in shards for item in shard):
            if problem := image_problem(face.path):
                left_out.add(problem, face.path)
                continue
            image: Any = face.path
            if self.config.crop and (image := cropped(face.path, face.box, self.config.crop_size)) is None:
                left_out.add("face whose box lies outside its picture", face.picture)
                continue
            yield (
                f"{face.picture} {face.number}",
                {
                    "image": image,
                    "label": face.label,
                    "picture": face.picture,
                    "face": face.number,
                    "box": list(face.box),
                    "confidence": face.confidence,
                },
            )
        self._report(left_out)


def _face_of(fields: list[str], images: dict[str, str]) -> _Face | None:
    """The face of one line; without a path where its picture is missing, `None` where the line is none."""
    try:
        name, number, top, left, right, bottom, confidence, label = fields
        y, x, x2, y2 = (round(float(edge)) for edge in (top, left, right, bottom))
        sure, kind, count = float(confidence), int(label), int(number)
    except (ValueError, OverflowError):
        return None
    sizes_fit = all(abs(edge) < 2**31 for edge in (x, y, x2, y2, count)) and x2 > x and y2 > y
    if not sizes_fit or not math.isfinite(sure) or not 0 <= kind < len(EXPW):
        return None
    picture = Path(name).name
    return _Face(images.get(picture, ""), picture, count, (x, y, x2 - x, y2 - y), sure, kind)
