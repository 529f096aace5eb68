"""Tells folders of classes from folders that hold something else, and says what lies beside them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import DataError, listed
from .builder import IMAGE_SUFFIXES, LeftOut, walk

__all__ = [
    "LAYOUTS",
    "SPLIT_NAMES",
    "check_class_folders",
    "looks_like_a_split",
    "say_what_is_beside",
    "say_what_is_not_read",
]

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""The split that a folder's name, or a table's word, means."""

LAYOUTS = (
    "Looked for `train/` and `test/` (or `validation/`), or for images right in the folder; in each, one folder per "
    "class, or a `metadata.csv` or `metadata.jsonl` with a column `file_name`"
)
_SPLIT_WORD = re.compile(r"(train|valid|val|dev|test|eval)(ing|idation|uation)?(set|data|split|images)?")
_OF_PICTURES = {"image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "face", "faces", "cropped"}
_SYSTEM_FILES = ("thumbs.db", "desktop.ini")


def looks_like_a_split(name: str) -> bool:
    """Whether a folder's name says that it is a part of a dataset, in whatever spelling.

    Example:
        >>> [looks_like_a_split(name) for name in ("train_set", "PublicTest", "val2017", "valentine", "happy")]
        [True, True, True, False, False]
    """
    words = re.split(r"[^a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return any(_SPLIT_WORD.fullmatch(word) for word in words)


def check_class_folders(folder: Path, images: Iterable[Path]) -> None:
    """Refuses folders that would become classes and are none: parts of a dataset, or folders of the same classes.

    Args:
        folder: Holds a folder for each class.
        images: All images below it.

    Raises:
        DataError: a folder looks like a split, or all hold the same folders; the message has the layout expected.

    Example:
        >>> images = [Path("faces/first/glad/a.png"), Path("faces/second/glad/b.png")]
        >>> check_class_folders(Path("faces"), images)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.DataError: 'faces': the folders 'first', 'second' all hold the same folders ('glad'), so ...
    """
    inside: dict[str, set[str]] = defaultdict(set)
    for path in images:
        parts = path.relative_to(folder).parts[:-1]
        if parts:
            inside[parts[0]].update(parts[1:2] or [""])
    splits = [name for name in inside if looks_like_a_split(name)]
    deeper = [f"{name}/{part}" for name, parts in inside.items() for part in parts if looks_like_a_split(part)]
    if splits or deeper:
        raise DataError(
            f"{str(folder)!r}: {listed(splits or deeper)} would be {'a class' if splits else 'of one class'}, and "
            f"looks like a split. Rename such folders to `train`, `validation` and `test`. {LAYOUTS}."
        )
    first = next(iter(inside.values()), set())
    if len(inside) > 1 and all(parts == first for parts in inside.values()) and "" not in first:
        if len(first) == 1 and next(iter(first)).lower() in _OF_PICTURES:
            return
        raise DataError(
            f"{str(folder)!r}: the folders {listed(inside)} all hold the same folders ({listed(first)}), so it is not "
            f"clear which are the classes. {LAYOUTS}."
        )


def say_what_is_beside(
    folder: Path, read: Sequence[Path], left_out: LeftOut, suffixes: Sequence[str] = IMAGE_SUFFIXES
) -> None:
    """Counts the pictures that lie beside the folders of splits, where nobody reads them.

    Args:
        folder: Holds the splits.
        read: The folders that are read.
        left_out: Where they are counted.
        suffixes: Of the files that are read.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("Training", "PublicTest"):
        ...     (folder / name).mkdir()
        ...     (folder / name / "a.png").touch()
        >>> left_out = LeftOut()
        >>> say_what_is_beside(folder, [folder / "Training"], left_out)
        >>> print(left_out)
        1 x image beside the folders of the splits ('Training'): PublicTest
    """
    names = {path.name for path in read}
    noun = "image" if suffixes is IMAGE_SUFFIXES else "video"
    reason = f"{noun} beside the folders of the splits ({listed(names)})"
    beside: dict[str, int] = defaultdict(int)
    for path in walk(folder):
        top = path.relative_to(folder).parts[0]
        if top not in names and path.suffix.lower() in suffixes:
            beside[top] += 1
        elif top == path.name:
            say_what_is_not_read([path], left_out, suffixes)
    for top, count in beside.items():
        left_out.add(reason, top, count)


def say_what_is_not_read(files: Iterable[Path], left_out: LeftOut, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> None:
    """Counts files that are not read because of their suffix.

    Example:
        >>> left_out = LeftOut()
        >>> say_what_is_not_read([Path("a.heic"), Path("b.png")], left_out)
        >>> print(left_out)
        1 x file with the suffix '.heic', which is not read: a.heic
    """
    for path in files:
        suffix = path.suffix.lower()
        if suffix not in suffixes and path.name.lower() not in _SYSTEM_FILES:
            kind = f"file with the suffix {suffix!r}" if suffix else "file without a suffix"
            left_out.add(f"{kind}, which is not read", path.name)
