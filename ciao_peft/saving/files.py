"""Files and folders that are written whole or not at all, and JSON that is read with suspicion."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..door import open_file, parse_json
from ..errors import (
    AdapterConfigError,
    AdapterFileError,
    CIAOError,
    FileReadError,
    RemoteURLError,
    listed,
    quoted,
    shortened,
)
from ..urls import is_url
from .aside import (
    being_saved,
    clear_leftovers,
    close_lock,
    exchange,
    open_file_aside,
    put_at_once,
    put_one_by_one,
    restore_moved,
    sync_folder,
)
from .safetensors_file import kind_of, pickled_instead

__all__ = [
    "MAX_JSON_BYTES",
    "checked_path",
    "local_path",
    "move_into_place",
    "read_json",
    "read_steadily",
    "refusals_told",
    "to_json",
    "write_file",
    "write_folder",
]

T = TypeVar("T")

_PATIENCE = 100  # times a folder is read that is saved again and again meanwhile
_PATIENCE_SECONDS = 1.5  # so long a reader waits for files that are being replaced one by one

MAX_JSON_BYTES = 4 * 2**20
"""The largest JSON file that is read or fetched."""


def local_path(path: str | os.PathLike[str]) -> Path:
    """The path that a user means: `~` and `~name` at its start are homes, wherever a path is given.

    Args:
        path: As the user gave it.

    Raises:
        RemoteURLError: it is a URL, and this place reads or writes on disk alone: as a path, `s3://bucket/fer` would be
            a folder `s3:` here.

    Example:
        >>> local_path("~/runs") == Path.home() / "runs", local_path("runs/~").as_posix()
        (True, 'runs/~')
    """
    if is_url(path):
        raise RemoteURLError(
            f"A path on this disk was expected; got {quoted(os.fspath(path))}, which is a URL. Write to a folder and "
            "copy it, or save by a function that takes URLs: docs/howto/stores.md lists them."
        )
    return Path(os.path.expanduser(path))


def checked_path(path: Any, kind: type[CIAOError] = AdapterFileError) -> Path:
    """The path that a user means, where it can be one on this disk.

    Args:
        path: Anything.
        kind: What is raised where it can be none.

    Raises:
        CIAOError: of that kind: no text and no path, an empty one, one with a null character, or a URL.

    Example:
        >>> checked_path("")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.AdapterFileError: A path on this disk was expected; got '', which is empty.
    """
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(text, str):
        what = f"which is {type(path).__name__}"
    elif not text:
        what = "which is empty"
    elif "\0" in text:
        what = "which has a null character"
    elif is_url(text):
        what = "which is a URL"
    else:
        return local_path(text)
    raise kind(f"A path on this disk was expected; got {quoted(text)}, {what}.")


@contextlib.contextmanager
def refusals_told(kind: type[CIAOError], what: str | os.PathLike[str], advice: str) -> Iterator[None]:
    """A `with` block in which something is written: where the disk refuses, an error of ours says so.

    Args:
        kind: What is raised in place of an `OSError`.
        what: The file or folder that is written.
        advice: What to do, in whole sentences.

    Raises:
        CIAOError: of that kind.

    Example:
        >>> with refusals_told(AdapterFileError, "runs/fer", "Make room."):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        ...
        ciao_peft.errors.AdapterFileError: 'runs/fer' cannot be written: No space left on device. Make room.
    """
    try:
        yield
    except CIAOError:
        raise
    except OSError as error:
        reason = shortened(error.strerror or str(error)).rstrip(".")
        name = os.path.basename(os.fsdecode(error.filename)) if isinstance(error.filename, (str, bytes)) else ""
        reason += f" ('{shortened(name, 80)}')" if name and name != os.path.basename(os.fspath(what)) else ""
        raise kind(f"'{shortened(os.fspath(what))}' cannot be written: {reason}. {advice}") from error


def write_file(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Writes a file aside, syncs it and moves it into place: whoever reads meanwhile sees the old one or the new one.

    Args:
        path: Its folder is made where it is missing. A link to a file stays one, and a file keeps its mode.
        content: Text is written as UTF-8.

    Returns:
        The path.

    Raises:
        OSError: the path leads to a folder or a device, or the disk refuses; what was there stays, and nothing else is
            left behind. What a killed writer left is cleared by the next one.

    Example:
        >>> import tempfile
        >>> write_file(Path(tempfile.mkdtemp(), "notes", "best.json"), "{}").read_text()
        '{}'
    """
    path = local_path(path)
    try:
        target = path.resolve()
    except RuntimeError as error:  # so says Python of links that lead to each other
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from error
    if os.path.lexists(target) and not target.is_file():  # a device behind a link would be gone for everybody
        raise OSError(f"'{path}' leads to '{target}', which is no file.")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside, lock = open_file_aside(target)
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        with contextlib.suppress(OSError):  # there is none yet, or the disk knows no modes
            shutil.copymode(target, aside)
        move_into_place(aside, target)
    finally:
        aside.unlink(missing_ok=True)
        close_lock(lock)
    return path


def move_into_place(aside: Path, target: Path) -> None:
    """Syncs a file or folder that was written aside, then moves it into place; what was there is removed.

    Args:
        aside: A path on the disk of the target, so that moving it copies nothing.
        target: The place.

    Raises:
        OSError: the disk refuses; what was there stays.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "new.tmp").write_text("new"), (folder / "notes.txt").write_text("old")
        (3, 3)
        >>> move_into_place(folder / "new.tmp", folder / "notes.txt")
        >>> [path.read_text() for path in folder.iterdir()]
        ['new']
    """
    restore_moved(target.parent, target.name)
    for path in [aside, *aside.rglob("*")]:
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("r+b") as file:
                os.fsync(file.fileno())
    if target.is_dir():
        _exchange(aside, target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(aside, target)
    sync_folder(target.parent)


def write_folder(folder: str | os.PathLike[str], files: Mapping[str, bytes], replacing: Iterable[str] = ()) -> Path:
    """Puts files into a folder all at once: written aside, synced, and moved into place.

    Where only the folder itself can be written, or it is a mount, they are written aside inside it and replaced one by
    one. Folder and files keep their modes, owner and group.

    Args:
        folder: Made where it is missing; `~` is the home. Other files in it stay.
        files: Content by plain file name; the file that describes the others comes last.
        replacing: Names of files that do not stay when `files` lacks them.

    Returns:
        The folder.

    Raises:
        AdapterFileError: the folder is a file, or the disk refuses; what was there stays.

    Example:
        >>> import tempfile
        >>> folder = write_folder(Path(tempfile.mkdtemp(), "fer"), {"a.txt": b"1", "b.txt": b"2"})
        >>> sorted(path.name for path in write_folder(folder, {"a.txt": b"3"}, replacing=["b.txt"]).iterdir())
        ['a.txt']
    """
    folder = local_path(folder)
    for name in files:
        if Path(name).name != name or name == "..":
            raise AdapterFileError(f"{name!r} is no plain file name.")
    if folder.exists() and not folder.is_dir():
        raise AdapterFileError(f"'{folder}' is a file; give a folder to save into.")
    ours = {*files, *replacing}
    try:
        target = folder.resolve()  # a link to a folder stays one
        if target == Path.cwd():
            raise AdapterFileError(f"'{folder}' is the working folder, which cannot be replaced; give a folder in it.")
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(target, ours)
        if not put_at_once(target, files, ours):
            put_one_by_one(target, files, ours)
    except AdapterFileError:
        raise
    except OSError as error:
        raise AdapterFileError(f"'{folder}' cannot be written: {error}. What was there is unchanged.") from error
    return folder


def _exchange(one: Path, other: Path) -> None:
    """Swaps two folders; in one step where the system can, and so that `restore_moved` can undo half of it."""
    if exchange(one, other):
        return
    between = other.with_name(f".{other.name}.old")
    shutil.rmtree(between, ignore_errors=True)  # of a swap that was killed at its end
    other.rename(between)
    try:
        one.rename(other)
    except BaseException:
        between.rename(other)
        raise
    between.rename(one)


def to_json(value: Any) -> bytes:
    r"""Writes readable JSON with a last newline.

    Raises:
        ValueError: a number is NaN or infinite.
        TypeError: the value is no plain data.

    Example:
        >>> to_json({"temperature": 0.1})
        b'{\n  "temperature": 0.1\n}\n'
    """
    return (json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """Reads the object in a JSON file.

    Raises:
        AdapterFileError: the file is missing or cannot be read.
        AdapterConfigError: it is too large, no JSON, or no object.

    Example:
        >>> import tempfile
        >>> read_json(write_file(Path(tempfile.mkdtemp(), "config.json"), '{"frames": 10}'))
        {'frames': 10}
    """
    if not os.path.lexists(path):
        present = listed(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else "none"
        raise AdapterFileError(f"'{path}' is missing. Files in the folder: {present}.{pickled_instead(path.parent)}")
    try:
        with open_file(path) as file:
            content = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise AdapterFileError(f"'{path}' cannot be read: {error}") from None
    if len(content) > MAX_JSON_BYTES:
        raise AdapterConfigError(f"'{path}' is larger than {MAX_JSON_BYTES} bytes; no config of ours is.")
    try:
        value = parse_json(content, path)
    except FileReadError as error:
        said = str(error).replace("' is no JSON:", f"' is no JSON{kind_of(path)}:", 1)
        raise AdapterConfigError(f"{said} Save the adapter again, or download it anew.") from None
    if not isinstance(value, dict):
        raise AdapterConfigError(f"'{path}' holds a {type(value).__name__} where an object was expected.")
    return value


def read_steadily(folder: Path, read: Callable[[Path], T]) -> T:
    """Reads several files of a folder that another process may be saving: all of one save, or an error.

    Args:
        folder: The folder.
        read: Reads it; raises `AdapterFileError` when files do not belong together.

    Returns:
        What `read` returned.

    Raises:
        AdapterFileError: that of `read`, or the folder does not come to rest.

    Example:
        >>> import tempfile
        >>> read_steadily(Path(tempfile.mkdtemp()), lambda folder: folder.is_dir())
        True
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    for _ in range(_PATIENCE):
        before = _generation(folder)
        try:
            value = read(folder)
        except OSError as error:
            if _generation(folder) != before:
                continue
            if being_saved(folder) and time.monotonic() < until:
                time.sleep(0.02)
                continue
            if isinstance(error, AdapterFileError):
                raise
            raise AdapterFileError(f"'{folder}' cannot be read: {error}.") from error
        if _generation(folder) == before:
            return value
    raise AdapterFileError(f"'{folder}' changed each of the {_PATIENCE} times it was read. Wait until it is written.")


def _generation(folder: Path) -> tuple[int, ...] | None:
    """What changes when another save takes the folder's place; files of two saves must not be read together."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
