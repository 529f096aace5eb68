"""Fetches the files of a folder in a store into the cache: bounded, whole, and of one moment."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..door import read_file
from ..errors import (
    RemoteConflictError,
    RemoteError,
    RemoteFileError,
    RemoteNotFoundError,
    RemoteServerError,
    listed,
)
from ..saving.files import local_path, move_into_place, refusals_told, write_file
from ..urls import FolderURL
from .store import FoundFile, Store

__all__ = ["RepoFile", "cache_of", "fetch", "folder_aside", "installed", "locked"]

_MAX_POINTER_BYTES = 1024
_GENERATION = re.compile(r"[0-9a-f]{32}")
_TRIES = 3  # of a folder that is written while it is read

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RepoFile:
    """A file to fetch from a repository or an object store.

    Args:
        name: Its name, without a folder.
        max_bytes: Its largest allowed size, which is checked before the first byte is downloaded.
        required: Whether the file must exist.

    Example:
        >>> RepoFile("config.json", max_bytes=4 * 2**20).required
        True
    """

    name: str
    max_bytes: int
    required: bool = True


def cache_of(url: FolderURL, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the cache for one folder of a store.

    Args:
        url: The folder of the store.
        cache_dir: Replaces the user's cache.

    Example:
        >>> from ciao_peft.urls import parse_url
        >>> cache_of(parse_url("s3://bucket/fer"), "cache").parent.as_posix()
        'cache/stores'
    """
    if cache_dir is None:
        own = os.environ.get("XDG_CACHE_HOME")
        base = (Path(own) if own else Path.home() / ".cache") / "ciao_peft"
    else:
        base = local_path(cache_dir)
    readable = re.sub(r"[^\w.-]", "_", url.name, flags=re.ASCII)[:40]
    return base / "stores" / f"{readable}-{hashlib.sha256(str(url).encode()).hexdigest()[:24]}"


def fetch(
    url: FolderURL,
    files: Sequence[RepoFile],
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> Path:
    """Fetches files of a folder, unless the cache has them as they are there now.

    They are read into a folder aside, go on where an earlier attempt stopped, and change their place all at once, when
    the store says of each file what it said before the first was read. Two processes that fetch one folder do it once.

    Args:
        url: The folder.
        files: Which; no other name is asked for, and nothing is listed.
        cache_dir: Replaces the user's cache.
        local_files_only: Whether to use the cache alone and no network.
        force_download: Whether to download files that are cached.
        storage_options: As for `Store`.

    Returns:
        The folder in the cache, which must not be written to.

    Raises:
        RemoteNotFoundError: a required file is not there, or not in the cache.
        RemoteFileError: a file is larger than allowed, or there is no room for it here.
        RemoteConflictError: they are being changed again and again.
        RemoteError: another subclass says why the store does not give them.

    Example:
        >>> import fsspec, tempfile
        >>> from ciao_peft.urls import parse_url
        >>> fsspec.filesystem("memory").pipe_file("/examples/fetch/config.json", b"{}")
        >>> url = parse_url("memory://examples/fetch")
        >>> folder = fetch(url, [RepoFile("config.json", 1000)], cache_dir=tempfile.mkdtemp())
        >>> (folder / "config.json").read_text()
        '{}'
    """
    place = cache_of(url, cache_dir)
    if local_files_only:
        if (cached := _newest(place, files)) is None:
            raise RemoteNotFoundError(
                f"'{url}' is not in the cache, and `local_files_only` was given. Load it once with the network on."
            )
        return cached
    store = Store(url, storage_options)
    try:
        found = _look(store, files)
    except RemoteServerError as error:
        if force_download or (cached := _newest(place, files)) is None:
            raise
        logger.warning("%s Going on with what is in the cache.", error)
        return cached
    advice = "Make room there, or give another `cache_dir`."
    with refusals_told(RemoteFileError, place, advice), locked(place):
        for _ in range(_TRIES):
            folder = place / _generation(found)
            tagged = all(file.tag is not None for file in found.values())
            if force_download or not tagged or not folder.is_dir():
                aside = folder.with_name(f".{folder.name}.part")
                if force_download or not tagged:
                    shutil.rmtree(aside, ignore_errors=True)
                try:
                    _download(store, found, aside)
                except RemoteConflictError as error:
                    logger.info("%s", error)
                after = _look(store, files)
                if after != found or not _is_whole(aside, found):
                    shutil.rmtree(aside, ignore_errors=True)
                    found = after
                    continue
                move_into_place(aside, folder)
            write_file(place / _pointer(files), folder.name)
            return folder
    raise RemoteConflictError(
        f"What is in '{url}' changed each of the {_TRIES} times it was read. Wait until it is written, and try again."
    )


def installed(
    url: FolderURL,
    files: Sequence[RepoFile],
    folder: Path,
    found: Mapping[str, FoundFile],
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Moves a folder whose files were put into a store to where `fetch` would have put them.

    Args:
        url: The folder in the store.
        files: As for `fetch`.
        folder: The same here; on the disk of the cache.
        found: What the store says of each file.
        cache_dir: As for `fetch`.

    Returns:
        The folder in the cache.

    Raises:
        RemoteFileError: the cache cannot be written.
    """
    place = cache_of(url, cache_dir)
    target = place / _generation({file.name: found[file.name] for file in files if file.name in found})
    with refusals_told(RemoteFileError, place, "What was saved is in the store."), locked(place):
        move_into_place(folder, target)
        write_file(place / _pointer(files), target.name)
    return target


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Holds the lock of a folder of the cache in a `with` block; waits for whoever holds it.

    Args:
        place: The folder; it is made.
    """
    from filelock import FileLock

    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / ".lock"):
        yield


@contextmanager
def folder_aside(place: Path) -> Iterator[Path]:
    """A new empty folder on the disk of a folder of the cache, in a `with` block; what is left in it goes.

    Args:
        place: The folder of the cache; it is made.
    """
    place.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".saving-", dir=place))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _look(store: Store, files: Sequence[RepoFile]) -> dict[str, FoundFile]:
    """What the store says of each file now, if all of it is fit to be fetched."""
    found: dict[str, FoundFile] = {}
    for file in files:
        known = store.find(file.name)
        if known is None and file.required:
            others = [other.name for other in files if other.name != file.name and store.find(other.name) is not None]
            has = f" It has {listed(others)}." if others else ""
            raise RemoteNotFoundError(f"'{store.url}' has no '{file.name}'.{has} Check bucket and folder.")
        if known is not None and known.size > file.max_bytes:
            raise RemoteFileError(
                f"'{store.url.file(file.name)}' has {known.size:,} bytes; at most {file.max_bytes:,} are fetched. "
                "If it is what you want, download it yourself and give the folder."
            )
        if known is not None:
            found[file.name] = known
    return found


def _download(store: Store, found: Mapping[str, FoundFile], aside: Path) -> None:
    aside.mkdir(parents=True, exist_ok=True)
    there = {name: (aside / name).stat().st_size if (aside / name).is_file() else 0 for name in found}
    needed, free = sum(file.size - there[name] for name, file in found.items()), shutil.disk_usage(aside).free
    if needed > 0.95 * free:
        raise RemoteFileError(
            f"'{store.url}' has {needed:,} bytes to fetch, and {free:,} are free in '{aside.parent}'. Make room there, "
            "or give another `cache_dir`."
        )
    for name, file in found.items():
        start = there[name] if there[name] <= file.size else 0
        with (aside / name).open("ab" if start else "wb") as written:
            for piece in store.pieces(name, file.size, start):
                written.write(piece)


def _is_whole(aside: Path, found: Mapping[str, FoundFile]) -> bool:
    return all((aside / name).is_file() and (aside / name).stat().st_size == file.size for name, file in found.items())


def _generation(found: Mapping[str, FoundFile]) -> str:
    """A name for what a store says of files: another one as soon as one of them is another."""
    said = json.dumps(sorted((name, file.size, file.tag) for name, file in found.items()))
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def _pointer(files: Sequence[RepoFile]) -> str:
    """The file of the cache that says where these files were put last."""
    return f"latest-{hashlib.sha256(json.dumps(sorted(file.name for file in files)).encode()).hexdigest()[:16]}"


def _newest(place: Path, files: Sequence[RepoFile]) -> Path | None:
    try:
        name = read_file(place / _pointer(files), _MAX_POINTER_BYTES, error=RemoteError).decode("ascii", "replace")
    except RemoteError:
        return None
    folder = place / name
    if not _GENERATION.fullmatch(name) or not all((folder / f.name).is_file() for f in files if f.required):
        return None
    return folder
