"""The base of all dataset builders: a cache that cannot go stale, and a report of what was left out."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import os
import stat
import sys
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

import datasets
import datasets.exceptions

from ..door import open_file, read_json
from ..errors import DataError, DataNotFoundError, FileReadError
from ..preprocessing.pictures import MAX_PICTURE_BYTES
from ..urls import is_url, not_on_this_disk

__all__ = [
    "HIDDEN",
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "FacesBuilder",
    "LeftOut",
    "file_mark",
    "fingerprint",
    "image_problem",
    "in_shards",
    "logger",
    "walk",
]

logger: logging.Logger = logging.getLogger("ciao_peft.data")

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".gif", ".webp"),
    *(".pgm", ".ppm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".tga", ".pcx", ".sgi"),
)  # what Pillow reads; whether this Pillow does, each picture says
HIDDEN = (".", "__MACOSX")  # beginnings of the names of files and folders that are not looked at
VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
_BINARY_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".npy")
_LARGE = 1 << 24  # bytes; above this a file is known by its size and times only
_REPORT = "left_out-{}.json"
_PACKAGE = __name__.rpartition(".")[0]


@dataclass
class LeftOut:
    """Counts what a builder did not yield, by reason, with the first three examples of each.

    Args:
        counts: How often each reason occurred.
        examples: Up to three examples of each reason.

    Example:
        >>> left_out = LeftOut()
        >>> left_out.add("empty file", "a.png")
        >>> left_out.add("image without a label", "b.png", count=2)
        >>> print(left_out)
        1 x empty file: a.png; 2 x image without a label: b.png
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, example: object, count: int = 1) -> None:
        """Counts one more, or `count` more, left out for this reason.

        Args:
            reason: Why, in the singular: `"empty file"`.
            example: A file or row; kept as text if it is among the first three.
            count: How many.
        """
        self.counts[reason] += count
        shown = self.examples.setdefault(reason, [])
        if len(shown) < 3:
            shown.append(str(example))

    def update(self, other: LeftOut) -> None:
        """Adds the counts and examples of another report to this one.

        Args:
            other: The report to add; it stays as it is.
        """
        for reason, count in other.counts.items():
            self.counts[reason] += count
            shown = self.examples.setdefault(reason, [])
            shown.extend(other.examples.get(reason, [])[: 3 - len(shown)])

    def __str__(self) -> str:
        parts = []
        for reason, count in sorted(self.counts.items()):
            examples = ", ".join(self.examples[reason])
            parts.append(f"{count} x {reason}: {examples}{', ...' if count > len(self.examples[reason]) > 2 else ''}")
        return "; ".join(parts) or "nothing"


class FacesBuilder(datasets.GeneratorBasedBuilder):
    """Base of the builders: `Jaffe(data_dir=...).download_and_prepare()`, then `.as_dataset()`.

    The name of the folder in which `datasets` keeps the prepared rows contains a fingerprint of the files in `data_dir`
    and of the builder's own source, so that a changed file, setting or version of this library is always built anew.

    Args:
        args: As for `datasets.DatasetBuilder`.
        data_dir: The folder with the files of the dataset.
        kwargs: Settings of the builder's config, and `cache_dir` and others of `datasets.DatasetBuilder`.

    Attributes:
        HOW_TO_OBTAIN: Where the files come from; a part of the messages when they are missing.
        NEEDS_DATA_DIR: Whether there are files at all.
        KEEPS_PICTURES: Whether the pictures are in the prepared rows, and not only the paths to them.

    Raises:
        DataNotFoundError: the folder is missing.
        DataError: the config has no such setting.

    Example:
        >>> import tempfile
        >>> from ciao_peft.data import dataset_builder
        >>> few = {"num_train": 4, "num_validation": 2, "num_test": 2, "cache_dir": tempfile.mkdtemp()}
        >>> builder = dataset_builder("painted_faces")(**few)
        >>> builder.download_and_prepare()
        >>> print(builder.as_dataset(split="test").num_rows, "faces; left out:", builder.left_out)
        2 faces; left out: nothing
    """

    HOW_TO_OBTAIN: ClassVar[str] = ""
    NEEDS_DATA_DIR: ClassVar[bool] = True
    KEEPS_PICTURES: ClassVar[bool] = False  # pictures are in the prepared data itself, not paths to them

    def __init__(self, *args: Any, data_dir: str | os.PathLike[str] | None = None, **kwargs: Any):
        if self.NEEDS_DATA_DIR:
            data_dir = self._checked_folder(data_dir)
        folder = None if data_dir is None else os.fspath(data_dir)
        config_class = self.BUILDER_CONFIG_CLASS
        settings = inspect.signature(config_class).parameters
        accepted = {*settings, *inspect.signature(datasets.DatasetBuilder).parameters}
        if unknown := sorted(set(kwargs) - accepted):
            own = sorted(
                set(inspect.signature(config_class).parameters)
                - {"name", "version", "data_dir", "data_files", "description"}
            )
            raise DataError(f"{type(self).__name__} has no setting {unknown[0]!r}. It has: {', '.join(own) or 'none'}.")
        kwargs.setdefault("hash", self._fingerprint_of(folder))
        self._preparing = False
        self.tells_left_out = True  # those who show `left_out` themselves turn the warning off
        super().__init__(*args, data_dir=folder, **kwargs)

    @property
    def folder(self) -> Path:
        """The folder with the files of the dataset, `data_dir`.

        Raises:
            DataNotFoundError: the dataset has none.
        """
        if self.config.data_dir is None:
            raise DataNotFoundError(f"{type(self).__name__} has no `data_dir`.")
        return Path(self.config.data_dir)

    @classmethod
    def settings_for(cls, protocol: str) -> dict[str, Any]:
        """The settings of the config that a protocol needs; empty for most.

        Args:
            protocol: One of `PROTOCOLS` of the dataset.
        """
        return {}

    def _checked_folder(self, data_dir: str | os.PathLike[str] | None) -> Path:
        name = type(self).__name__
        if data_dir is None:
            raise DataNotFoundError(f"{name} needs `data_dir`, the folder with its files. {self.HOW_TO_OBTAIN}".strip())
        folder = Path(data_dir).expanduser()
        # Once faces were streamed, `datasets` has put a `Path` of its own here, which asks servers for what is a URL.
        if is_url(os.fspath(data_dir)) or not folder.is_dir():
            hint = not_on_this_disk(os.fspath(data_dir)) or f" {self.HOW_TO_OBTAIN}"
            raise DataNotFoundError(f"{name}: {str(folder)!r} is not a folder.{hint}".strip())
        return folder.resolve()

    def _fingerprint_of(self, data_dir: str | None) -> str:
        digest = hashlib.sha256()
        for cls in type(self).__mro__:
            if cls.__module__.startswith(_PACKAGE):
                digest.update(Path(inspect.getfile(cls)).read_bytes())
        for module in self._code():
            digest.update(Path(inspect.getfile(sys.modules[module])).read_bytes())
        if data_dir is not None:
            digest.update(fingerprint(data_dir).encode())
        return digest.hexdigest()[:16]

    def _code(self) -> Iterable[str]:
        """Names of further modules whose source decides what is built."""
        return ()

    def _report(self, left_out: LeftOut) -> None:
        """Keeps the report next to the rows, where it outlives worker processes and is read on a cache hit."""
        if not left_out.counts:
            return
        if self._preparing and self._output_dir is not None:
            content = {"counts": left_out.counts, "examples": left_out.examples}
            (Path(self._output_dir) / _REPORT.format(uuid.uuid4().hex)).write_text(json.dumps(content))
        else:  # streaming: the folder, if there is one, tells of rows that were prepared, so say it at once
            logger.warning("%s left out: %s.", type(self).__name__, left_out)

    @property
    def left_out(self) -> LeftOut:
        """What was not yielded, with reasons and examples; complete once `download_and_prepare` has run."""
        total = LeftOut()
        if self._output_dir is None:
            return total
        for path in sorted(Path(self._output_dir).glob(_REPORT.format("*"))):
            content = read_json(path, max_bytes=2**26, error=DataError)
            total.update(LeftOut(Counter(content["counts"]), content["examples"]))
        return total

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Prepares the rows as in `datasets`, then warns of what was left out, also if the rows came from the cache.

        Args:
            args: As in `datasets`.
            kwargs: As in `datasets`.

        Raises:
            DataError: a split, or all of them, would have no face.
        """
        self._preparing = True
        try:
            super().download_and_prepare(*args, **kwargs)
        except datasets.exceptions.DatasetGenerationError as error:
            if isinstance(error.__cause__, DataError):  # our own message instead of a wrapper around it
                raise error.__cause__ from None
            raise
        finally:
            self._preparing = False
        left_out = self.left_out
        splits = self.info.splits or {}
        self._check_splits(splits, left_out)
        for name, split in splits.items():
            if not split.num_examples:
                raise DataError(
                    f"No face is left in the {name} split of {self.config.data_dir!r}. Left out: {left_out}."
                )
        if left_out.counts and self.tells_left_out:
            logger.warning("%s left out: %s.", type(self).__name__, left_out)
        self._compare_with_official()

    def as_streaming_dataset(self, *args: Any, **kwargs: Any) -> Any:
        """Reads the rows while you iterate, as in `datasets`.

        Args:
            args: As in `datasets`.
            kwargs: As in `datasets`.

        Raises:
            DataError: there is no split.
        """
        faces = super().as_streaming_dataset(*args, **kwargs)
        if isinstance(faces, dict):
            self._check_splits(faces)
        return faces

    def _check_splits(self, splits: Any, left_out: LeftOut | None = None) -> None:
        if not splits:
            told = f" Left out: {left_out}." if left_out else ""
            raise DataError(
                f"{type(self).__name__} found no face in {self.config.data_dir!r}.{told} {self.HOW_TO_OBTAIN}".strip()
            )

    def official_counts(self) -> dict[str, int]:
        """Number of rows per split of the released files with this config; empty where nobody published it."""
        return {}

    def official_labels(self) -> dict[str, tuple[int, ...]]:
        """Number of faces per split and label of the released files with this config, in the order of the labels."""
        return {}

    def _compare_with_official(self) -> None:
        counts = {name: split.num_examples for name, split in (self.info.splits or {}).items()}
        official = self.official_counts()
        if different := [name for name in official if counts.get(name, 0) != official[name]]:
            differences = ", ".join(f"{name}: {counts.get(name, 0)} instead of {official[name]}" for name in different)
            logger.warning("%s differs from the released files in %s.", type(self).__name__, differences)


def fingerprint(folder: str | os.PathLike[str]) -> str:
    """Hashes the names, sizes and times of change of all files below a folder, and the content of label files.

    It is cheap enough to be taken at every load: about 0.1 s for 10,000 pictures. Besides the time of modification,
    the time of the last change of the file's entry counts, which no tool can set back.

    Args:
        folder: The folder to hash; hidden files do not count.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> before = fingerprint(folder)
        >>> _ = (folder / "labels.csv").write_text("a.png,glad")
        >>> fingerprint(folder) == before
        False
    """
    digest = hashlib.sha256()
    for path in walk(folder):
        digest.update(path.relative_to(folder).as_posix().encode(errors="surrogateescape") + b"\0" + file_mark(path))
    return digest.hexdigest()


def file_mark(path: Path) -> bytes:
    """What changes when a file does: its size, and its content or, where that costs too much, its times.

    Example:
        >>> file_mark(Path("nowhere.csv"))
        b'gone\\x00'
    """
    try:
        status = path.stat()
    except OSError:  # a link to nowhere, or to itself
        status = None
    if status is None or not stat.S_ISREG(status.st_mode):  # a pipe or a device has no content to hash
        return b"gone\0"
    mark = f"{status.st_size}\0".encode()
    if path.suffix.lower() in _BINARY_SUFFIXES or status.st_size > _LARGE:
        return mark + f"{status.st_mtime_ns}\0{status.st_ctime_ns}\0".encode()
    with open_file(path, error=DataError) as file:
        return mark + (hashlib.file_digest(file, "sha256").digest() if sys.version_info >= (3, 11) else _sha256(file))


def _sha256(file: IO[bytes]) -> bytes:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.digest()


def walk(folder: str | os.PathLike[str]) -> list[Path]:
    """Lists every file below a folder, without hidden files and folders (`.DS_Store`, `._x.jpg`, `__MACOSX`).

    Args:
        folder: Where to start; links to folders are followed.

    Returns:
        The paths in sorted order.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.png", "a.png", ".hidden"):
        ...     (folder / name).touch()
        >>> [path.name for path in walk(folder)]
        ['a.png', 'b.png']
    """
    paths: list[str] = []
    seen: set[str] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:  # a link back up would never end
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(HIDDEN)]
        paths += [os.path.join(parent, name) for name in files if not name.startswith(".")]
    return [Path(path) for path in sorted(paths)]


def in_shards(rows: list[Any], size: int = 512) -> list[list[Any]]:
    """Cuts rows into lists of at most `size`, which `datasets` spreads over processes or streams piece by piece.

    Args:
        rows: All rows of a split.
        size: Most rows in a list, 1 or more.

    Example:
        >>> in_shards([1, 2, 3], size=2)
        [[1, 2], [3]]
    """
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def image_problem(path: str | os.PathLike[str]) -> str | None:
    """Tells why a picture cannot be used.

    The header and the end of the file are looked at; the picture is decoded only where that is not enough.

    Args:
        path: The file.

    Returns:
        The reason in a few words, or `None` for a picture that can be used.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "face.png"
        >>> image_problem(path)
        'missing file'
        >>> path.touch()
        >>> image_problem(path)
        'empty file'
    """
    from PIL import Image, UnidentifiedImageError

    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return "no file"
        if found.st_size == 0:
            return "empty file"
        with open_file(path, MAX_PICTURE_BYTES) as file, Image.open(file) as image:
            if image.format == "EPS":  # a program in PostScript, which Pillow would have Ghostscript run
                return "not an image"
            if image.format in _ENDINGS:
                place = file.tell()
                file.seek(max(0, found.st_size - 4096))
                if _ENDINGS[image.format] in file.read():
                    return None
                file.seek(place)
            image.load()
    except FileNotFoundError:
        return "missing file"
    except UnidentifiedImageError:
        return "not an image"
    except Image.DecompressionBombError:
        return "too large an image"
    except FileReadError:
        return "unreadable file"
    except Exception:  # damaged files make PIL's decoders raise nearly anything
        return "damaged image"
    return None


_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
