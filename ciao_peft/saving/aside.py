"""Hidden folders in which files are written before they take their place, and how they take it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

__all__ = [
    "being_saved",
    "clear_leftovers",
    "close_lock",
    "exchange",
    "open_file_aside",
    "put_at_once",
    "put_one_by_one",
    "restore_moved",
    "sync_folder",
]

_INSIDE = "saving"  # the name of what is aside inside the folder itself
_LEFT_FOR = 3600.0  # seconds after which a folder aside is nobody's, where the system has no locks
_MOVED = re.compile(r"\.(.+?)(?:\.[0-9a-f]{32})?(?:\.tmp)?\.old")
_NOT_HERE = {errno.EACCES, errno.EPERM, errno.EROFS}


def put_at_once(target: Path, files: Mapping[str, bytes], ours: set[str]) -> bool:
    """Writes a folder beside its place and exchanges the two in one step; nobody ever meets half of it.

    What other people keep in the folder is in the old one and in the new one until the exchange is done.

    Args:
        target: The folder, which may be missing.
        files: Content by name.
        ours: Names of files of the folder that do not stay.

    Returns:
        False where this place allows it not: only the folder itself is writable, or it is a mount. Nothing was changed.

    Raises:
        OSError: the disk refuses; nothing was changed.
    """
    there = target.is_dir()
    if there and os.path.ismount(target):
        return False
    try:
        aside, lock = _open_aside(target.parent, target.name, private=there)
    except OSError as problem:
        if there and problem.errno in _NOT_HERE:
            return False
        raise
    try:
        _fill(aside, files, target)
        with contextlib.suppress(OSError):
            if not target.exists():
                aside.rename(target)
                sync_folder(target.parent)
                return True
        if not target.is_dir():
            aside.rename(target)  # says why it is refused; else another process made it meanwhile
        linked = _link_others(target, aside, ours)
        if linked is None:
            return False
        _keep_standing(target, aside)
        sync_folder(aside)
        turn = _lock(target, wait=False)  # the old folder is not taken for a leftover once it is aside
        try:
            if not exchange(aside, target):
                return False
            try:
                _bring_late(aside, target, linked, ours)
            except BaseException:
                exchange(aside, target)
                raise
        finally:
            close_lock(turn)
        sync_folder(target.parent)
        return True
    finally:
        _remove(aside)
        close_lock(lock)


def put_one_by_one(target: Path, files: Mapping[str, bytes], ours: set[str]) -> None:
    """Writes files aside inside a folder and replaces one after another, the last one last; on failure all go back.

    Args:
        target: The folder.
        files: Content by name; the file that describes the others comes last.
        ours: Names of files of the folder that do not stay.

    Raises:
        OSError: the disk refuses; what was there is back.
    """
    aside, lock = _open_aside(target, _INSIDE, private=True)
    turn = _lock(target)  # of two savers one waits: a mixture would stay
    new, old = aside / "new", aside / "old"
    done: list[str] = []
    try:
        new.mkdir()
        old.mkdir()
        _fill(new, files, target)
        try:
            for name in [*sorted(ours - set(files)), *files]:
                if os.path.lexists(target / name):
                    _copy(target / name, old / name)
                    done.append(name)
                elif name in files:
                    done.append(name)
                if name in files:
                    os.replace(new / name, target / name)
                else:
                    (target / name).unlink(missing_ok=True)
        except BaseException:
            for name in reversed(done):
                if os.path.lexists(old / name):
                    os.replace(old / name, target / name)
                else:
                    (target / name).unlink(missing_ok=True)
            raise
        sync_folder(target)
    finally:
        _remove(aside)
        close_lock(turn)
        close_lock(lock)


def being_saved(folder: Path) -> bool:
    """Whether files of a folder are being replaced one by one just now, or were when their saver was killed.

    Example:
        >>> being_saved(Path("no/such/folder"))
        False
    """
    return any(_is_aside(name, _INSIDE) for name in _names(folder))


def clear_leftovers(target: Path, ours: set[str]) -> None:
    """Removes what killed saves of a folder left, and gives back what of other people lies in it.

    Args:
        target: The folder, which may be missing.
        ours: Names of files that are the saver's own.
    """
    restore_moved(target.parent, target.name)
    for place, name in ((target.parent, target.name), (target, _INSIDE)):
        for entry in _names(place):
            if not _is_aside(entry, name):
                continue
            left = place / entry
            lock = _lock(left, wait=False)
            if lock is None:
                continue  # somebody writes in it
            try:
                if place != target and target.is_dir():
                    _bring_late(left, target, None, ours)
                _remove(left)
            except OSError:
                pass  # the next save tries again
            finally:
                close_lock(lock)


def open_file_aside(target: Path) -> tuple[Path, int | None]:
    """Makes an empty hidden file beside a file that is to be written, and removes what killed writers of it left.

    Args:
        target: The file, which may be missing.

    Returns:
        The hidden file, and a lock on it for `close_lock`: by it the next writer sees that nobody was killed over it.

    Raises:
        OSError: the disk refuses.

    Example:
        >>> import tempfile
        >>> aside, lock = open_file_aside(Path(tempfile.mkdtemp(), "plan.yaml"))
        >>> aside.name[:11], aside.read_bytes()
        ('.plan.yaml.', b'')
        >>> close_lock(lock)
    """
    for entry in _names(target.parent):
        if _is_aside(entry, target.name):
            lock = _lock(target.parent / entry, wait=False)
            if lock is not None:  # nobody writes in it
                with contextlib.suppress(OSError):
                    (target.parent / entry).unlink()
                close_lock(lock)
    return _made_aside(target.parent, target.name, lambda aside: aside.touch(exist_ok=False))


def close_lock(lock: int | None) -> None:
    """Gives back a lock of `open_file_aside`, if there is one.

    Example:
        >>> close_lock(None)
    """
    if lock is not None and lock >= 0:
        os.close(lock)


def restore_moved(parent: Path, name: str | None = None) -> None:
    """Brings back folders that were moved away by a process that was killed before it put another one in their place.

    Args:
        parent: The folder they lie in.
        name: Only the folder of this name.

    Example:
        >>> import tempfile
        >>> parent = Path(tempfile.mkdtemp())
        >>> (parent / ".checkpoint-5.tmp.old").mkdir()
        >>> restore_moved(parent)
        >>> [path.name for path in parent.iterdir()]
        ['checkpoint-5']
    """
    for entry in _names(parent):
        moved = _MOVED.fullmatch(entry)
        if moved and name in (None, moved[1]) and not os.path.lexists(parent / moved[1]):
            with contextlib.suppress(OSError):
                (parent / entry).rename(parent / moved[1])


def exchange(one: Path, other: Path) -> bool:
    """Lets two folders change places in one step; False where the system or the place does not allow it.

    Example:
        >>> exchange(Path("no/such/folder"), Path("nor/this"))
        False
    """
    flag, here = 2, -100  # RENAME_EXCHANGE of Linux's renameat2, AT_FDCWD
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
        return renameat2(here, os.fsencode(one), here, os.fsencode(other), flag) == 0
    except (AttributeError, OSError, TypeError):
        return False


def sync_folder(folder: Path) -> None:
    """Makes sure that the names in a folder are on the disk, where the system can.

    Example:
        >>> sync_folder(Path("."))
    """
    with contextlib.suppress(OSError):  # folders cannot be opened on every system
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _fill(aside: Path, files: Mapping[str, bytes], like: Path) -> None:
    for name, content in files.items():
        with (aside / name).open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if (like / name).is_file():
            _keep_standing(like / name, aside / name)
    sync_folder(aside)


def _keep_standing(there: Path, new: Path) -> None:
    """Gives a new file or folder owner, group and mode of the one that it replaces, as far as this user may."""
    with contextlib.suppress(OSError, AttributeError):
        status = there.stat()
        made = new.stat()
        for owner, group in ((status.st_uid, -1), (-1, status.st_gid)):
            with contextlib.suppress(OSError):
                if owner not in (-1, made.st_uid) or group not in (-1, made.st_gid):
                    os.chown(new, owner, group)
        new.chmod(status.st_mode & 0o7777)


def _copy(source: Path, place: Path) -> None:
    try:
        os.link(source, place, follow_symlinks=False)
    except (OSError, NotImplementedError):
        shutil.copy2(source, place, follow_symlinks=False)


def _link_others(target: Path, aside: Path, ours: set[str]) -> dict[str, int] | None:
    """Puts what is not the saver's into the new folder, too; returns which files, or None where it cannot."""
    linked: dict[str, int] = {}
    try:
        for path, entry in _others(target, ours):
            place = aside / path
            if entry.is_dir(follow_symlinks=False):
                if os.path.ismount(entry.path):
                    return None
                place.mkdir()
                _keep_standing(Path(entry.path), place)
            else:
                with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                    os.link(entry.path, place, follow_symlinks=False)
                    linked[path] = place.lstat().st_ino
    except (OSError, NotImplementedError):
        return None
    return linked


def _bring_late(old: Path, target: Path, linked: Mapping[str, int] | None, ours: set[str]) -> None:
    """Moves what came into the old folder too late to be linked, or lies in a killed save's and nowhere else."""
    for path, entry in [*_others(old, ours)]:
        place = target / path
        if not os.path.lexists(entry.path):
            continue  # it was moved with its folder, or is gone
        if entry.is_dir(follow_symlinks=False):
            if not os.path.lexists(place):
                os.rename(entry.path, place)
        elif not os.path.lexists(place) or (linked is not None and linked.get(path) != entry.inode()):
            os.replace(entry.path, place)


def _others(folder: Path, ours: set[str], below: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """What is in a folder and not the saver's, folders before what they hold, with its path there."""
    with os.scandir(folder / below) as entries:
        found = [*entries]
    for entry in found:
        if not below and (entry.name in ours or _is_aside(entry.name, _INSIDE)):
            continue
        path = os.path.join(below, entry.name)
        yield path, entry
        if entry.is_dir(follow_symlinks=False) and os.path.lexists(entry.path):
            yield from _others(folder, ours, path)


def _is_aside(entry: str, name: str) -> bool:
    return re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]{{32}}\.tmp", entry) is not None


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _open_aside(place: Path, name: str, *, private: bool) -> tuple[Path, int | None]:
    """Makes a hidden folder and holds its lock, by which the next save sees that nobody was killed over it."""
    return _made_aside(place, name, lambda aside: aside.mkdir(0o700 if private else 0o777))


def _made_aside(place: Path, name: str, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    while True:
        aside = place / f".{name}.{uuid.uuid4().hex}.tmp"
        make(aside)
        lock = _lock(aside)
        if aside.exists():
            return aside, lock
        close_lock(lock)  # taken for a leftover before it was locked


def _lock(folder: Path, *, wait: bool = True) -> int | None:
    """A lock on a folder, which ends with the process; None where it is held, or there are none and it is young."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            os.close(handle)
    except (ImportError, OSError):
        pass
    with contextlib.suppress(OSError):
        if not wait and time.time() - folder.stat().st_mtime > _LEFT_FOR:
            return -1
    return None


def _remove(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.chmod(0o700)  # it may be the old one, which its owner had closed
    shutil.rmtree(folder, ignore_errors=True)
