"""Puts a folder's files into a store, the one that describes the others last."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..door import read_file
from ..errors import RemoteConflictError, RemoteFileError, RemoteURLError
from ..urls import FolderURL
from .fetching import RepoFile, cache_of, folder_aside, installed
from .store import FoundFile, Store

__all__ = ["put_folder", "save_folder", "writable"]

_TRIES = 3  # of a folder into which others write at the same time


def save_folder(
    url: FolderURL,
    write: Callable[[Path], Any],
    files: Sequence[RepoFile],
    *,
    kept: Sequence[RepoFile] = (),
    absent: Sequence[str] = (),
    cache_dir: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a folder into a store, with what other people wrote there.

    Args:
        url: The folder in the store.
        write: Writes a folder here.
        files: What `fetch` reads of it, the weights last and before them the file that describes the others.
        kept: Files that are fetched before, where they are there, for `write` to find in its folder.
        absent: More files that do not stay when `write` does not write them.
        cache_dir, storage_options: As for `fetch`.

    Returns:
        The same folder in the cache, which must not be written to.

    Raises:
        RemoteError: a subclass says why the store does not take it.

    Example:
        >>> import tempfile
        >>> from ciao_peft.remote import parse_url
        >>> def write(folder):
        ...     for name in ("weights.bin", "config.json"):
        ...         _ = (folder / name).write_text(name)
        >>> files = [RepoFile("config.json", 1000), RepoFile("weights.bin", 1000)]
        >>> folder = save_folder(parse_url("memory://examples/save"), write, files, cache_dir=tempfile.mkdtemp())
        >>> sorted(path.name for path in folder.iterdir())
        ['config.json', 'weights.bin']
    """
    store = writable(url, storage_options)
    with folder_aside(cache_of(url, cache_dir)) as aside:
        folder = aside / url.name
        folder.mkdir()
        before: dict[str, bytes] = {}
        for file in kept:
            found = store.find(file.name)
            if found is not None and found.size <= file.max_bytes:
                before[file.name] = b"".join(store.pieces(file.name, found.size))
                (folder / file.name).write_bytes(before[file.name])
        write(folder)
        sizes = {file.name: file.max_bytes for file in files}
        config, weights = files[-2].name, files[-1].name
        written = [path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
        others = sorted({*written} - {config, weights})
        names = [name for name in (weights, *others, config) if (folder / name).is_file()]
        for name in names:
            size = (folder / name).stat().st_size
            if name in sizes and size > sizes[name]:
                raise RemoteFileError(f"'{name}' has {size:,} bytes; above {sizes[name]:,} none is read again.")
        same = {name for name in others if name in before and _holds(folder / name, before[name])}
        gone = [name for name in (*(file.name for file in files), *absent) if name not in names]
        put = put_folder(store, folder, [name for name in names if name not in same], gone)
        return installed(url, files, folder, put, cache_dir)


def _holds(path: Path, content: bytes) -> bool:
    return path.stat().st_size == len(content) and read_file(path, len(content)) == content


def writable(url: FolderURL, storage_options: Mapping[str, Any] | None = None) -> Store:
    """The store of a folder that is to be written.

    Args:
        url: The folder.
        storage_options: As for `Store`.

    Raises:
        RemoteURLError: it is on a web server, which is only read.
    """
    if url.is_web:
        raise RemoteURLError(f"Nothing is written to a web server: '{url}'. Give the URL of an object store.")
    return Store(url, storage_options)


def put_folder(store: Store, folder: Path, names: Sequence[str], gone: Sequence[str] = ()) -> dict[str, FoundFile]:
    """Puts files in the order given; each is whole or not there, and the last one is put when all others are.

    A reader that comes in between finds the old last file, whose digest does not fit, and reads again. Where somebody
    else writes at the same time, all are put again, so that what lies there in the end is of one writer.

    Args:
        store: The store.
        folder: The folder here.
        names: Of its files; the first is the largest, the last describes the others.
        gone: Names of files that must not be there; they are removed before the last file is put.

    Returns:
        What the store says of each file.

    Raises:
        RemoteConflictError: others write there again and again.
        RemoteError: another subclass says why the store does not take them.
    """
    for _ in range(_TRIES):
        try:
            put = {name: store.put(name, folder / name) for name in names[:-1]}
            for name in gone:
                store.remove(name)
            put[names[-1]] = store.put(names[-1], folder / names[-1])
        except RemoteConflictError:
            continue
        if all(store.find(name) == found for name, found in put.items()):
            return put
    raise RemoteConflictError(
        f"Others wrote into '{store.url}' each of the {_TRIES} times this was put there. Save it again, or elsewhere."
    )
