"""Aligned copies of a folder of faces, and landmarks in the box that a localizer finds."""

from __future__ import annotations

import csv
import io
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..checking import check_choice
from ..door import parse_json, read_lines
from ..errors import DataError, DataNotFoundError, listed, quoted
from ..preprocessing import Alignment, as_mode, five_points, open_picture
from ..preprocessing.alignment import alignment_of, mark_of
from ..urls import is_url
from .builder import IMAGE_SUFFIXES, walk
from .localizer import FaceLocalizer
from .tables import METADATA, table_rows

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

__all__ = ["MISSING", "AlignedCopies", "align_folder", "located_landmarks"]

MISSING = ("whole", "skip", "error")
"""What `align_folder` can do with pictures without landmarks."""

# The formats whose files can say that they are aligned, and how they are written.
_FORMATS: dict[str, dict[str, Any]] = {
    **{end: {"format": "JPEG", "quality": 98, "subsampling": 0} for end in (".jpg", ".jpeg", ".jpe", ".jfif")},
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True},
}


class AlignedCopies(NamedTuple):
    """What `align_folder` did.

    Args:
        pictures: How many copies were written.
        missing: Pictures without landmarks, as paths below the folder; used whole or left out.
        others: How many other files were copied as they are.

    Example:
        >>> AlignedCopies(2, ["a.png"], 1).pictures
        2
    """

    pictures: int
    missing: list[str]
    others: int


def located_landmarks(
    localizer: FaceLocalizer | None = None, name: str = "haar"
) -> Callable[[np.ndarray], np.ndarray | None]:
    """Landmarks of the face that counts in a larger picture: those of `five_points` in the box of a localizer.

    Args:
        localizer: Finds the face; one with OpenCV's Haar cascade when left out.
        name: What an adapter remembers it by; two localizers that find other boxes need two names.

    Returns:
        A function for `Alignment(landmarks=...)`. It gives None where the localizer finds no face.

    Raises:
        MissingExtraError: OpenCV is missing, and no localizer was given.

    Example:
        >>> import numpy as np
        >>> find = located_landmarks(FaceLocalizer(lambda image: [(10, 10, 80, 80)] if image.any() else []), "fixed")
        >>> find(np.ones((100, 100, 3), np.uint8)).shape, find(np.zeros((100, 100, 3), np.uint8)) is None
        ((5, 2), True)
        >>> Alignment(landmarks=find).landmarks
        'own:five-points in fixed'
    """
    return _LocatedLandmarks(localizer or FaceLocalizer(), name)


class _LocatedLandmarks:
    def __init__(self, localizer: FaceLocalizer, name: str):
        self.localizer, self.name = localizer, f"five-points in {name}"

    def __call__(self, pixels: np.ndarray) -> np.ndarray | None:
        from PIL import Image

        box = self.localizer.locate(Image.fromarray(pixels))
        return None if box is None or min(box.width, box.height) < 2 else five_points(pixels, box)


def align_folder(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    alignment: Alignment | Callable[[np.ndarray], np.ndarray | None] | str | None = None,
    *,
    missing: str = "whole",
) -> AlignedCopies:
    """Writes aligned copies of all pictures below a folder; names, folders and all other files stay the same.

    A model whose preprocessing aligns in the same way takes the copies as they are, and any other picture aligned: it
    may be trained on copies and read pictures as they come. Any other preprocessing refuses them. PNG and WebP copies
    hold the chips without loss, JPEG ones at quality 98.

    Args:
        source: Holds JPEG, PNG or WebP pictures, in folders of any depth.
        target: A folder that does not exist yet. It appears when all is written, or not at all.
        alignment: How faces are aligned, as `Preprocessing(align=...)` takes it; `Alignment()` when left out.
        missing: What happens to a picture without landmarks: `"whole"` copies it as it is, `"skip"` leaves it out, also
            in the `metadata.csv` or `metadata.jsonl` that lists it, and `"error"` is an error.

    Returns:
        What was written.

    Raises:
        DataNotFoundError: there is no folder `source`, or no picture in it.
        DataError: `source` or `target` is a URL; `target` exists or cannot be written; a picture cannot be read, is of
            another format, is an aligned copy already, or has no landmarks and `missing` is `"error"`.
        ConfigError: `alignment` is none.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (96, 96)).save(folder / "a.png")
        >>> align_folder(folder, folder / "aligned")
        AlignedCopies(pictures=1, missing=[], others=0)
    """
    check_choice("missing", missing, MISSING, DataError)
    alignment = alignment_of(alignment) or Alignment()
    for given in (source, target):
        if is_url(given):
            raise DataError(f"Folders on this disk are aligned; got {quoted(os.fspath(given))}, which is a URL.")
    source, target = Path(source).expanduser(), Path(target).expanduser()
    files = walk(source) if source.is_dir() else []
    pictures = {path for path in files if path.suffix.lower() in IMAGE_SUFFIXES}
    if not pictures:
        raise DataNotFoundError(f"'{source}' {'holds no picture' if source.is_dir() else 'is no folder'}.")
    if other := sorted({path.suffix for path in pictures if path.suffix.lower() not in _FORMATS}):
        raise DataError(
            f"'{source}' has pictures that end in {listed(other)}. Such a file cannot say that it is an aligned copy: "
            "convert them to PNG, or let `Preprocessing(align=...)` align them whenever they are read."
        )
    if target.exists():
        raise DataError(f"'{target}' exists. Give a new folder: copies of two alignments must not mix.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.parent / f".{target.name}.{uuid.uuid4().hex}"
        aside.mkdir()
    except (OSError, ValueError) as error:  # the second: a name that no file can have
        raise DataError(f"'{target}' cannot be written: {error}.") from error
    try:
        without: list[str] = []
        for path in files:
            place = path.relative_to(source)
            copy = aside / place
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file():
                raise DataError(f"'{path}' is no regular file, and cannot be copied. Take it out of the folder.")
            if path not in pictures:
                shutil.copyfile(path, copy)
            elif not _write_copy(path, copy, alignment, missing):
                without.append(str(place))
        if missing == "skip":
            for path in (path.relative_to(source) for path in files if path.name in METADATA):
                _leave_out(aside / path, set(map(Path, without)), path.parent)
        os.rename(aside, target)
    except OSError as error:
        raise error if isinstance(error, DataError) else DataError(f"'{target}' cannot be written: {error}.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    kept = len(pictures) - (len(without) if missing == "skip" else 0)
    return AlignedCopies(kept, without, len(files) - len(pictures))


def _write_copy(path: Path, copy: Path, alignment: Alignment, missing: str) -> bool:
    """Writes the copy of a picture; whether it has landmarks."""
    picture: Image = open_picture(path)
    if (mark := mark_of(picture)) is not None:
        raise DataError(f"'{path}' is an aligned copy already ({mark}); give the folder that it was made from.")
    try:
        picture = as_mode(picture, "RGB")
        chip = alignment.chip(picture)
    except DataError as error:
        raise DataError(f"'{path}': {error}") from error
    if chip is None and missing == "error":
        raise DataError(f"'{path}' has no landmarks of a face; `missing` can be 'whole' or 'skip'.")
    if chip is None and missing == "skip":
        return False
    try:
        (picture if chip is None else chip).save(copy, exif=alignment.exif(), **_FORMATS[path.suffix.lower()])
    except ValueError as error:  # such as one of a side that its format does not have
        raise DataError(f"'{path}' cannot be copied whole: {error}.") from error
    return chip is not None


def _leave_out(table: Path, names: set[Path], folder: Path) -> None:
    """Takes the rows of pictures that were left out from a table of metadata."""
    if table.suffix == ".jsonl":
        lines = read_lines(table, error=DataError)
        kept = [line for line in lines if folder / _named_in(line, table) not in names]
        table.write_text("".join(kept), encoding="utf-8")
        return
    rows = list(table_rows(table))
    if rows and "file_name" in rows[0]:
        column = rows[0].index("file_name")
        written = io.StringIO()
        csv.writer(written, lineterminator="\n").writerows(
            row for row in rows if len(row) <= column or folder / row[column] not in names
        )
        table.write_text(written.getvalue(), encoding="utf-8")


def _named_in(line: str, table: Path) -> str:
    """The picture that a line of a table is about; none for a line that is about no picture."""
    entry = parse_json(line, table.name, error=DataError) if line.strip() else {}
    name = cast("dict[str, object]", entry).get("file_name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) else ""
