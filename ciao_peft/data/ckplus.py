"""CK+: posed expressions of 123 people, from rest to the apex (Lucey et al. 2010)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import datasets

from ..checking import check_flag, check_number
from ..door import read_file
from ..errors import DataError, DataNotFoundError, FileReadError
from .builder import IMAGE_SUFFIXES, FacesBuilder, LeftOut, image_problem, in_shards, walk
from .expressions import CKPLUS, expression_name
from .fer2013 import SIDE, find_table, index_table, png_of_pixels, read_lines
from .labels import describe_labels

__all__ = ["CKPlus", "CKPlusConfig"]

_FRAME = re.compile(r"(S\d+)_(\d+)_(\d+)", re.IGNORECASE)  # S005_001_00000011: person, sequence, frame
_LABEL = re.compile(r"(S\d+_\d+)_\d+_emotion", re.IGNORECASE)
_TABLE = "ckextended.csv"
_OF_TABLE = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral", "contempt")
_CLASSES = {expression_name(name): number for number, name in enumerate(CKPLUS)}
_SEQUENCES = (0, 45, 18, 59, 25, 69, 28, 83)  # that have a label
_HOW = (
    "CK+ is given to researchers who sign its agreement (jeffcohn.net/Resources). Point `data_dir` at the folder with "
    "cohn-kanade-images/ and Emotion/, at class folders of its frames (CK+48), or at ckextended.csv."
)


@dataclass
class CKPlusConfig(datasets.BuilderConfig):
    """Settings of `CKPlus`.

    Args:
        frames: How many of the last frames of each labelled sequence are taken, 1 or more; 3 in most papers. Class
            folders and tables have chosen already.
        neutral: Whether there is a class neutral: the first frame of each labelled sequence.

    Raises:
        DataError: `frames` is no whole number of 1 or more.

    Example:
        >>> CKPlusConfig(frames=1).names
        ['anger', 'contempt', 'disgust', 'fear', 'happy', 'sadness', 'surprise']
    """

    frames: int = 3
    neutral: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("frames", self.frames, int, 1, error=DataError)
        check_flag("neutral", self.neutral)

    @property
    def names(self) -> list[str]:
        """The classes, in the order of the released numbers."""
        return list(CKPLUS if self.neutral else CKPLUS[1:])


class _Picture(NamedTuple):
    path: str
    label: str
    identity: str
    sequence: str
    frame: int


class CKPlus(FacesBuilder):
    """Reads CK+: all faces as one split `train`, or the splits of `ckextended.csv`.

    Reads the release, `cohn-kanade-images/S005/001/S005_001_00000011.png` with the label of each sequence in
    `Emotion/S005/001/S005_001_00000011_emotion.txt`; class folders of single frames, as `CK+48/anger/`; or
    `ckextended.csv`, 48 x 48 pixels as FER2013 writes them, which says nothing of people.

    Columns: `image` (grey), `label`, `identity` (S005), `sequence` (S005_001) and `frame`; without the last three from
    a table. The same person is in many rows: the default protocol `"subject-k-fold"` keeps people apart.

    Example:
        >>> import tempfile
        >>> from ciao_peft.data import load_faces, paint_face
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "anger").mkdir()
        >>> paint_face(size=48).convert("L").save(folder / "anger" / "S010_004_00000017.png")
        >>> faces = load_faces("ckplus", folder, protocol=None, streaming=True)["train"]
        >>> [(face["identity"], faces.features["label"].int2str(face["label"])) for face in faces]
        [('S010', 'anger')]
    """

    BUILDER_CONFIG_CLASS = CKPlusConfig
    config: CKPlusConfig
    HOW_TO_OBTAIN: ClassVar[str] = _HOW

    def _code(self) -> tuple[str, ...]:
        return (png_of_pixels.__module__,)

    def _info(self) -> datasets.DatasetInfo:
        features = {"image": datasets.Image(mode="L"), "label": datasets.ClassLabel(names=self.config.names)}
        if find_table(self.folder, (_TABLE,)) is None:
            features |= {"identity": datasets.Value("string"), "sequence": datasets.Value("string")}
            features |= {"frame": datasets.Value("int32")}
        description = describe_labels("CK+: posed expressions.", "single_label_classification", self.config.names)
        return datasets.DatasetInfo(description=description, features=datasets.Features(features))

    def official_counts(self) -> dict[str, int]:
        """Three frames of each of the 327 labelled sequences, and a neutral one; none for a table."""
        if find_table(self.folder, (_TABLE,)) is not None:
            return {}
        return {"train": sum(_SEQUENCES) * (self.config.frames + self.config.neutral)}

    def official_labels(self) -> dict[str, tuple[int, ...]]:
        """Frames per label; none for a table."""
        if not self.official_counts():
            return {}
        counts = tuple(count * self.config.frames for count in _SEQUENCES[1:])
        return {"train": (sum(_SEQUENCES), *counts) if self.config.neutral else counts}

    def _split_generators(self, dl_manager: object) -> list[datasets.SplitGenerator]:
        folder, left_out = self.folder, LeftOut()
        if table := find_table(folder, (_TABLE,)):
            splits = index_table(table, left_out)
            self._report(left_out)
            return [
                datasets.SplitGenerator(name=name, gen_kwargs={"shards": in_shards(splits[name]), "table": str(table)})
                for name in ("train", "validation", "test")
                if splits.get(name)
            ]
        files = walk(folder)
        images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        labels = [path for path in files if _LABEL.fullmatch(path.stem)]
        pictures = self._of_sequences(images, labels, left_out) if labels else self._of_folders(images, left_out)
        if not pictures:
            raise DataNotFoundError(
                f"No CK+ in {str(folder)!r}: looked for labels such as S005_001_00000011_emotion.txt, for class "
                f"folders such as anger/, and for {_TABLE}; found {len(images)} images. Left out: {left_out}. {_HOW}"
            )
        self._report(left_out)
        return [datasets.SplitGenerator(name="train", gen_kwargs={"shards": in_shards(pictures), "table": None})]

    def _of_sequences(self, images: list[Path], labels: list[Path], left_out: LeftOut) -> list[_Picture]:
        frames: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for path in images:
            if match := _FRAME.fullmatch(path.stem):
                frames[f"{match[1]}_{match[2]}".upper()].append((int(match[3]), str(path)))
            else:
                left_out.add("image not named like S005_001_00000011.png", path.name)
        found: list[_Picture] = []
        for path in labels:
            sequence = path.stem.upper().rpartition("_EMOTION")[0].rpartition("_")[0]
            label = _class_in(path)
            inside = sorted(frames.pop(sequence, []))
            if label is None:
                left_out.add("label that is no number from 0 to 7", path.name)
            elif not inside:
                left_out.add("label without its frames", path.name)
            else:
                chosen = [(label, item) for item in inside[-self.config.frames :]]
                if self.config.neutral:
                    chosen.insert(0, (0, inside[0]))
                found += [
                    _Picture(file, CKPLUS[kind], sequence.partition("_")[0], sequence, number)
                    for kind, (number, file) in chosen
                    if CKPLUS[kind] in self.config.names
                ]
        for sequence, inside in frames.items():
            left_out.add("frame of a sequence without a label", sequence, len(inside))
        return found

    def _of_folders(self, images: list[Path], left_out: LeftOut) -> list[_Picture]:
        found: list[_Picture] = []
        for path in images:
            match, label = _FRAME.fullmatch(path.stem), _CLASSES.get(expression_name(path.parent.name))
            if label is None or CKPLUS[label] not in self.config.names:
                left_out.add("image outside a folder named after one of the expressions", path)
            elif match is None:
                left_out.add("image not named like S005_001_00000011.png", path.name)
            else:
                person = match[1].upper()
                found.append(_Picture(str(path), CKPLUS[label], person, f"{person}_{match[2]}", int(match[3])))
        return found

    def _generate_examples(  # pyright: ignore[reportIncompatibleMethodOverride] - called with gen_kwargs
        self, shards: list[list[Any]], table: str | None
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        left_out = LeftOut()
        items = [item for shard in shards for item in shard]
        if table is not None:
            yield from self._of_table(Path(table), items, left_out)
        for picture in () if table is not None else (_Picture(*item) for item in items):
            if problem := image_problem(picture.path):
                left_out.add(problem, picture.path)
                continue
            yield (
                picture.path,
                {
                    "image": picture.path,
                    "label": picture.label,
                    "identity": picture.identity,
                    "sequence": picture.sequence,
                    "frame": picture.frame,
                },
            )
        self._report(left_out)

    def _of_table(self, table: Path, lines: list[Any], left_out: LeftOut) -> Iterator[tuple[Any, dict[str, Any]]]:
        ids = {str(number): CKPLUS[_CLASSES[name]] for number, name in enumerate(_OF_TABLE)}
        for row, record in read_lines(table, lines):
            label = ids.get(record.get("emotion", "").strip())
            if label is None:
                left_out.add("row with an unknown emotion", f"row {row}")
            elif label not in self.config.names:
                left_out.add(f"row of class {label!r}, which `neutral=True` keeps", f"row {row}")
            elif (image := png_of_pixels(record.get("pixels", ""))) is None:
                left_out.add(f"row without {SIDE * SIDE} pixels from 0 to 255", f"row {row}")
            else:
                yield row, {"image": {"bytes": image, "path": None}, "label": label}


def _class_in(path: Path) -> int | None:
    """The number in a label file, such as `   3.0000000e+00`."""
    try:
        value = float(read_file(path, 1024).decode("ascii", errors="replace").strip())
    except (ValueError, FileReadError):
        return None
    return int(value) if value in range(len(CKPLUS)) else None
