"""One folder in an object store through fsspec: the files in it asked for, read piece by piece, and put."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import (
    CIAOError,
    ConfigError,
    RemoteAccessError,
    RemoteConflictError,
    RemoteError,
    RemoteFileError,
    RemoteNotFoundError,
    RemoteServerError,
    RemoteURLError,
    shortened,
)
from ..urls import FolderURL, require_package
from .patience import TIMEOUT_VARIABLE, TooLate, patiently, seconds_to_wait, within

__all__ = ["FoundFile", "Store"]

T = TypeVar("T")

_PIECE = 4 * 2**20  # bytes that are asked for at once: 70 kB/s are enough for one within a minute
_TAGS = ("ETag", "etag", "generation", "md5Hash", "content_md5", "VersionId", "version_id", "Content-MD5", "Digest")
_TIMES = ("LastModified", "last_modified", "Last-Modified", "mtime", "updated", "created")


@dataclass(frozen=True)
class FoundFile:
    """What a store says of a file.

    Args:
        size: Its bytes.
        tag: Changes when the file does: its ETag or the like; None where the store has none.

    Example:
        >>> FoundFile(10, "0f") == FoundFile(10, "10")
        False
    """

    size: int
    tag: str | None


class Store:
    """The files of one folder of a store. Nothing is ever listed: a folder of a million files costs no more than one.

    Args:
        url: The folder.
        storage_options: Settings of fsspec's file system for this scheme, such as `endpoint_url`, `key` and `secret` of
            `s3`. What is left out comes from the environment and from fsspec's own config.

    Raises:
        MissingExtraError: the package for the scheme is not installed.
        ConfigError: `storage_options` are no dict with names of settings.

    Example:
        >>> from ciao_peft.urls import parse_url
        >>> store = Store(parse_url("memory://examples/store"))
        >>> store.find("config.json") is None
        True
    """

    url: FolderURL

    def __init__(self, url: FolderURL, storage_options: Mapping[str, Any] | None = None):
        self.url = url
        if storage_options is not None and not (
            isinstance(storage_options, Mapping) and all(isinstance(name, str) for name in storage_options)
        ):
            raise ConfigError(
                f"`storage_options` must be a dict of fsspec's settings by name; got {type(storage_options).__name__}."
            )
        require_package(url.scheme)
        with self._errors(str(url)):
            self._fs = _file_system(url.scheme, dict(storage_options or {}))

    def find(self, name: str) -> FoundFile | None:
        """What the store says of a file now.

        Args:
            name: A plain file name.

        Returns:
            None where there is none.

        Raises:
            RemoteError: a subclass says why the store does not tell.
        """
        where = self.url.file(name)

        def ask() -> Any:
            self._fs.invalidate_cache()
            return self._fs.info(where)

        try:
            info = self._answer(where, ask)
        except RemoteNotFoundError:
            return None
        if info.get("type") not in (None, "file"):
            return None
        size = info.get("size")
        if not isinstance(size, int) or size < 0:
            raise RemoteFileError(f"'{where}' does not say how large it is, and what may be endless is not fetched.")
        tags = [str(info[key]) for key in _TAGS if info.get(key)] or [str(info[key]) for key in _TIMES if info.get(key)]
        return FoundFile(size, " ".join(tags) or None)

    def pieces(self, name: str, size: int, start: int = 0) -> Iterator[bytes]:
        """Reads a file piece by piece; each piece that does not come, or not whole, is asked for again.

        Args:
            name: A plain file name.
            size: Its bytes, as `find` said.
            start: The first byte to read.

        Raises:
            RemoteConflictError: it is longer or shorter than `size`.
            RemoteError: another subclass says why the store does not give it.
        """
        where = self.url.file(name)
        if self.url.is_web:
            yield from self._streamed(where, size, start)
            return
        while start < size:
            end = min(start + _PIECE, size)
            read = functools.partial(self._fs.cat_file, where, start=start, end=end)
            piece = self._answer(where, read, wanted=end - start)
            yield piece
            start = end

    def _streamed(self, where: str, size: int, start: int) -> Iterator[bytes]:
        """The same from a web server, which may give all of a file where a part was asked for, and more than all."""
        place, tries = 0, iter(range(4))

        def again() -> Any:
            return self._answer(where, lambda: self._fs.open(where, "rb", block_size=0))

        file = again()
        try:
            while place < size:
                wanted = min(_PIECE, size - place)
                try:
                    piece = self._once(where, lambda: file.read(wanted))  # noqa: B023
                    if not piece:
                        raise RemoteServerError(f"'{where}' ended after {place:,} of {size:,} bytes. Try again later.")
                except RemoteServerError:
                    if next(tries, None) is None:
                        raise
                    file.close()
                    file, place = again(), 0
                    continue
                if place + len(piece) > size:
                    raise RemoteConflictError(f"'{where}' has more than the {size:,} bytes that it said. Try again.")
                if place + len(piece) > start:
                    yield piece[max(start - place, 0) :]
                    start = place + len(piece)
                place += len(piece)
        finally:
            file.close()

    def put(self, name: str, path: Path) -> FoundFile:
        """Puts a file, whole or not at all.

        Args:
            name: A plain file name.
            path: The file here.

        Returns:
            What the store says of it.

        Raises:
            RemoteError: a subclass says why the store does not take it.
        """
        where, size = self.url.file(name), path.stat().st_size
        self._answer(where, lambda: self._fs.put_file(str(path), where), seconds=seconds_to_wait() + size / 100_000)
        found = self.find(name)
        if found is None or found.size != size:
            raise RemoteConflictError(
                f"'{where}' was put with {size:,} bytes and has {'none' if found is None else f'{found.size:,}'} now: "
                "somebody else writes there. Try again."
            )
        return found

    def remove(self, name: str) -> None:
        """Removes a file, if it is there.

        Args:
            name: A plain file name.

        Raises:
            RemoteError: a subclass says why the store refuses.
        """
        if self.find(name) is not None:
            where = self.url.file(name)
            self._answer(where, lambda: self._fs.rm_file(where))

    # -- answers and errors ----------------------------------------------------------------------------------------

    def _answer(
        self, where: str, ask: Callable[[], T], *, wanted: int | None = None, seconds: float | None = None
    ) -> T:
        def once() -> T:
            answer = self._once(where, ask, seconds)
            if wanted is not None and len(answer) != wanted:  # pyright: ignore[reportArgumentType] - bytes, then
                raise RemoteServerError(f"'{where}' gave {len(answer):,} of {wanted:,} bytes. Try again later.")  # pyright: ignore[reportArgumentType]
            return answer

        return patiently(once)

    def _once(self, where: str, ask: Callable[[], T], seconds: float | None = None) -> T:
        seconds = seconds_to_wait() if seconds is None else seconds
        with self._errors(where):
            try:
                return within(seconds, ask)
            except TooLate:
                raise RemoteServerError(
                    f"'{where}' has not answered within {seconds:g} s. Try again, or set {TIMEOUT_VARIABLE} to more "
                    "seconds."
                ) from None

    @contextmanager
    def _errors(self, where: str) -> Iterator[None]:
        try:
            yield
        except CIAOError:
            raise
        except Exception as error:  # fsspec's file systems raise those of the clients below them
            raise _our_error(where, error) from error


def _our_error(where: str, error: BaseException) -> RemoteError:
    status = _status(error)
    said = shortened(" ".join(str(error).split()), 200).rstrip(".") or type(error).__name__
    if _redirected(error):
        return RemoteURLError(f"'{where}' leads to another address, which is not followed. Give the address itself.")
    if isinstance(error, FileNotFoundError) and status in (None, 404, 410):
        return RemoteNotFoundError(f"There is no '{where}'. Check bucket and folder.")
    if isinstance(error, PermissionError) or status in (401, 403) or "Credentials" in type(error).__name__:
        return RemoteAccessError(
            f"'{where}' is refused: {said}. Give credentials in the environment, as the store's own tools take them, "
            "or as `storage_options`; they must allow to read, for saving to write, and to list, or a store does not "
            "tell what is missing from what is forbidden."
        )
    return RemoteServerError(f"'{where}' cannot be reached now ({type(error).__name__}: {said}). Try again later.")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        current = current.__cause__


def _status(error: BaseException) -> int | None:
    """The status of an answer over HTTP that an error is about; 0 for no answer at all."""
    for cause in _causes(error):
        if isinstance(status := getattr(cause, "status", None), int):
            return status
        answer = getattr(cause, "response", None)  # of botocore
        if isinstance(answer, dict) and isinstance(answer.get("ResponseMetadata"), dict):
            return answer["ResponseMetadata"].get("HTTPStatusCode")
        if isinstance(cause, ConnectionError) or type(cause).__module__.startswith("aiohttp"):
            return 0
    return None


def _redirected(error: BaseException) -> bool:
    return any(isinstance(cause, _LeadsElsewhere) for cause in _causes(error))


class _LeadsElsewhere(Exception):
    """A web server answered with another address: its word is no reason to call on that."""


def _file_system(scheme: str, options: dict[str, Any]) -> Any:
    import fsspec
    import fsspec.config

    if scheme == "s3":
        # Retries are counted here, and once: botocore's would be made within each of them.
        own: Mapping[str, Any] = fsspec.config.conf.get("s3", {})
        given = {**own.get("config_kwargs", {}), **options.get("config_kwargs", {})}
        options = {**options, "config_kwargs": {"retries": {"total_max_attempts": 1}, **given}}
    if scheme in ("http", "https"):
        options = {**options, "client_kwargs": {**_web_client(), **options.get("client_kwargs", {})}}
    return fsspec.filesystem(scheme, **options)


@functools.cache
def _web_client() -> dict[str, Any]:
    import aiohttp

    async def refuse(*_: Any) -> None:
        raise _LeadsElsewhere

    tracing = aiohttp.TraceConfig()
    tracing.on_request_redirect.append(refuse)
    return {"trace_configs": [tracing], "timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)}
