"""Files and folders that are written whole or not at all, and JSON that is read with suspicion."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..door import open_file, parse_json
from ..errors import AdapterConfigError, AdapterFileError, FileReadError, listed
from .safetensors_file import kind_of, pickled_instead

__all__ = ["MAX_JSON_BYTES", "move_into_place", "read_json", "to_json", "write_file", "write_folder"]

MAX_JSON_BYTES = 4 * 2**20
"""The largest JSON file that is read or fetched."""


def write_file(path: str | os.PathLike[str], content: bytes | str) -> Path:
    """Writes a file aside, syncs it and moves it into place: whoever reads meanwhile sees the old one or the new one.

    Args:
        path: Its folder is made where it is missing. A link to a file stays one, and a file keeps its mode.
        content: Text is written as UTF-8.

    Returns:
        The path.

    Raises:
        OSError: the disk refuses; what was there stays, and nothing else is left behind.

    Example:
        >>> import tempfile
        >>> write_file(Path(tempfile.mkdtemp(), "notes", "best.json"), "{}").read_text()
        '{}'
    """
    path = Path(path)
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        aside.write_bytes(content.encode() if isinstance(content, str) else content)
        with contextlib.suppress(OSError):  # there is none yet, or the disk knows no modes
            shutil.copymode(target, aside)
        move_into_place(aside, target)
    finally:
        aside.unlink(missing_ok=True)
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
    for path in [aside, *aside.rglob("*")]:
        if path.is_dir():
            _sync(path)
        else:
            with path.open("r+b") as file:
                os.fsync(file.fileno())
    if target.is_dir():
        _exchange(aside, target)
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(aside, target)
    _sync(target.parent)


def write_folder(folder: str | os.PathLike[str], files: Mapping[str, bytes], replacing: Iterable[str] = ()) -> Path:
    """Puts files into a folder all at once: written aside, synced, and moved into place.

    Args:
        folder: Made where it is missing. Other files in it stay.
        files: Content by plain file name.
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
    folder = Path(folder)
    for name in files:
        if Path(name).name != name or name == "..":
            raise AdapterFileError(f"{name!r} is no plain file name.")
    if folder.exists() and not folder.is_dir():
        raise AdapterFileError(f"'{folder}' is a file; give a folder to save into.")
    aside = None
    try:
        target = folder.resolve()  # a link to a folder stays one
        if target == Path.cwd():
            raise AdapterFileError(f"'{folder}' is the working folder, which cannot be replaced; give a folder in it.")
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        aside.mkdir()
        for name, content in files.items():
            with (aside / name).open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _sync(aside)
        try:
            if not target.exists():
                aside.rename(target)
        except OSError:
            if not target.is_dir():
                raise  # else another process made it meanwhile
        if aside.exists():
            _take_place(aside, target, {*files, *replacing})
        _sync(target.parent)
    except AdapterFileError:
        raise
    except OSError as error:
        raise AdapterFileError(f"'{folder}' cannot be written: {error}. What was there is unchanged.") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def _take_place(aside: Path, target: Path, ours: set[str]) -> None:
    """Puts the folder aside in the target's place and keeps the target's files that are not ours; all or nothing."""
    _exchange(aside, target)
    moved: list[str] = []
    try:
        for entry in [*aside.iterdir()]:  # the old folder now
            if entry.name not in ours:
                entry.rename(target / entry.name)
                moved.append(entry.name)
    except BaseException:
        for name in moved:
            (target / name).rename(aside / name)
        _exchange(aside, target)
        raise


def _sync(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # folders cannot be opened on every system
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


def _exchange(one: Path, other: Path) -> None:
    """Swaps two folders; in one step where the system can."""
    exchange = 2  # RENAME_EXCHANGE of Linux's renameat2
    here = -100  # AT_FDCWD
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        if renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
            return
    except (AttributeError, OSError, TypeError):
        pass
    between = one.with_name(one.name + ".old")
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
