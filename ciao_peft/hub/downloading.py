"""Downloads the files of one commit into the cache."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..door import read_file
from ..errors import (
    AdapterFileError,
    AdapterNameError,
    ConfigError,
    HubFileError,
    HubOfflineError,
    HubServerError,
    listed,
    quoted,
)
from ..installed import check_installed
from ..remote import RepoFile, fetch, is_url, parse_url
from ..saving.files import local_path, write_file
from .client import answer_within, as_our_errors, must_stay_offline, open_client

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = [
    "MAX_WEIGHTS_BYTES",
    "RepoFile",
    "Snapshot",
    "download",
    "fetch_sizes_and_commit",
    "is_hub_id",
    "prefix_of",
    "read_pretrained",
]

MAX_WEIGHTS_BYTES = 4 * 2**30
"""The largest file of weights that is downloaded, 4 GiB."""

T = TypeVar("T")

_MAX_REF_BYTES = 1024
_PATIENCE = 6.0  # times the client's seconds from byte to byte (HF_HUB_ETAG_TIMEOUT): a minute by default
_SECONDS_OF_SAVING = 1.0  # between the first and the last file that a writer puts into a store, mostly
_COMMIT = re.compile(r"[0-9a-f]{40}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Snapshot:
    """The folder with the files of one revision.

    Args:
        folder: The folder. It is in the cache if the files came from the Hub, and must not be written to then.
        repo_id: The repository, or the URL in a store; None for a folder of the user's.
        revision: The commit, 40 hexadecimal digits; None for a folder of the user's or in a store.

    Example:
        >>> str(Snapshot(Path("runs/fer"))), str(Snapshot(Path("cache"), "user/ciao-fer", "0123456789" * 4))
        ('runs/fer', 'user/ciao-fer@01234567')
    """

    folder: Path
    repo_id: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        if self.repo_id is None:
            return str(self.folder)
        return f"{self.repo_id}@{self.revision[:8]}" if self.revision else self.repo_id


def is_hub_id(source: object) -> bool:
    """Whether a source has the form of `user/name` on the Hub.

    Example:
        >>> [is_hub_id(source) for source in ("user/ciao-fer", "runs/a/b", "./fer", "fer", "../fer")]
        [True, False, False, False, False]
    """
    pattern = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
    return isinstance(source, str) and re.fullmatch(pattern, source, re.ASCII) is not None and len(source) <= 96


def read_pretrained(
    source: str | os.PathLike[str],
    read: Callable[[Path], T],
    files: Sequence[RepoFile],
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    storage_options: Mapping[str, Any] | None = None,
) -> tuple[T, Snapshot]:
    """Reads a folder on disk, on the Hub, in an object store or on a web server.

    Files that were damaged on the way or in the cache are downloaded once more.

    Args:
        source: A folder; `user/name` on the Hub (if a folder has that name, the folder is read); or the URL of a folder
            in a store, such as `s3://bucket/fer`.
        read: Reads the folder; raises `AdapterFileError` when a file is damaged.
        files: The files to download, the most important ones last: an interrupted download then lacks them.
        subfolder: The folder inside the repository or folder.
        revision: Branch, tag or commit; the main branch when left out. A cached commit costs no request.
        token: Token for private and gated repositories; that of `hf auth login` when left out.
        cache_dir: Replaces the user's cache.
        local_files_only: Whether to use the cache alone and no network.
        force_download: Whether to download files that are cached.
        storage_options: For a URL: settings of fsspec's file system, such as `endpoint_url`, `key` and `secret`; what
            is left out comes from the environment. A URL takes no `revision` and no `token`.

    Returns:
        What `read` returned, and the folder with the files.

    Raises:
        HubError: a subclass says why the Hub does not give the files.
        RemoteError: a subclass says why a store does not give them, or why the URL is not followed.
        ConfigError: `storage_options` without a URL, or `revision` or `token` with one.
        AdapterNameError: `subfolder` leaves the repository.

    Example:
        >>> import tempfile
        >>> from ciao_peft.saving import read_json, write_file
        >>> folder = tempfile.mkdtemp()
        >>> path = write_file(Path(folder, "fer", "config.json"), '{"frames": 10}')
        >>> def read_config(folder):
        ...     return read_json(folder / "config.json")
        >>> read_pretrained(folder, read_config, [RepoFile("config.json", 1000)], subfolder="fer")[0]
        {'frames': 10}
    """
    prefix = prefix_of(subfolder)
    if is_url(source):
        if revision is not None or token is not None:
            raise ConfigError("A URL takes no `revision` and no `token`; give `storage_options`.")
        stores: dict[str, Any] = {"cache_dir": cache_dir, "storage_options": storage_options}
        return _read_url(str(source), prefix, read, files, local_files_only, force_download, stores)
    if storage_options is not None:
        raise ConfigError(f"`storage_options` are for URLs of stores, and {quoted(os.fspath(source))} is none.")
    if local_path(source).is_dir() or not is_hub_id(source):
        snapshot = Snapshot(local_path(source) / prefix)
        return read(snapshot.folder), snapshot
    options: dict[str, Any] = {"subfolder": subfolder, "token": token, "cache_dir": cache_dir}
    snapshot = download(
        str(source),
        files,
        revision=revision,
        local_files_only=local_files_only,
        force_download=force_download,
        **options,
    )
    try:
        return read(snapshot.folder), snapshot
    except AdapterFileError as error:
        if force_download or must_stay_offline(local_files_only):
            raise
        logger.warning("%s Downloading %s once more.", error, snapshot)
    snapshot = download(str(source), files, revision=snapshot.revision, force_download=True, **options)
    return read(snapshot.folder), snapshot


def _read_url(
    source: str,
    prefix: str,
    read: Callable[[Path], T],
    files: Sequence[RepoFile],
    local_files_only: bool,
    force_download: bool,
    stores: dict[str, Any],
) -> tuple[T, Snapshot]:
    url = parse_url(f"{source.rstrip('/')}/{prefix}" if prefix else source)

    fetched: list[Path] = []

    def attempt(**how: bool) -> tuple[T, Snapshot]:
        fetched.append(fetch(url, files, **how, **stores))
        return read(fetched[-1]), Snapshot(fetched[-1], str(url))

    try:
        return attempt(local_files_only=local_files_only, force_download=force_download)
    except AdapterFileError as error:
        if local_files_only:
            raise
        logger.warning("%s Downloading %s once more.", error, url)
    try:
        return attempt(force_download=True)
    except AdapterFileError:
        time.sleep(_SECONDS_OF_SAVING)  # somebody may be saving it: the config comes last
        if fetch(url, files, **stores) == fetched[-1]:
            raise
    return attempt()


def download(
    repo_id: str,
    files: Sequence[RepoFile],
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Snapshot:
    """Downloads files of one commit, unless they are cached.

    Args:
        repo_id: `user/name`.
        files, subfolder, revision, token, cache_dir, local_files_only, force_download: As for `read_pretrained`.

    Returns:
        The folder in the cache that holds the files.

    Raises:
        HubError: a subclass says why the Hub does not give the files.
        AdapterNameError: `subfolder` leaves the repository.

    Example:
        >>> download("user/ciao-fer", [RepoFile("config.json", 1000)], local_files_only=True)
        Traceback (most recent call last):
        ...
        ciao_peft.errors.HubOfflineError: 'user/ciao-fer' is not in the cache, and `local_files_only` was given. \
Load it once with the network on (`ciao pull user/ciao-fer`).
    """
    check_installed("huggingface-hub")
    from huggingface_hub import _CACHED_NO_EXIST
    from huggingface_hub.errors import RemoteEntryNotFoundError

    prefix = prefix_of(subfolder)
    names = {prefix + file.name: file for file in files}
    cache = None if cache_dir is None else os.fspath(cache_dir)
    request = _Request(repo_id, revision, cache, names)
    if must_stay_offline(local_files_only):
        if (cached := request.in_cache(complete=False)) is None:
            how = "`local_files_only` was given" if local_files_only else "HF_HUB_OFFLINE is set"
            raise HubOfflineError(
                f"{request} is not in the cache, and {how}. Load it once with the network on (`ciao pull {repo_id}`)."
            )
        return cached
    pinned = revision is not None and _COMMIT.fullmatch(revision) is not None
    if pinned and not force_download and (cached := request.in_cache(complete=True)) is not None:
        return cached
    api = open_client(token)
    try:
        with as_our_errors(str(request), api, repo_id):
            sizes, commit = fetch_sizes_and_commit(api, repo_id, revision)
    except (HubOfflineError, HubServerError) as error:
        if force_download or (cached := request.in_cache(complete=False)) is None:
            raise
        logger.warning("%s Going on with %s from the cache.", error, cached)
        return cached
    request.check(sizes)
    folder = None
    with as_our_errors(str(request), api, repo_id):
        for name, file in names.items():
            if name not in sizes and request.in_cache_of(commit, name) is _CACHED_NO_EXIST:
                continue
            try:
                path = api.hf_hub_download(
                    repo_id, name, revision=commit, cache_dir=cache, force_download=force_download
                )
                folder = _snapshot_folder(path, name)
            except RemoteEntryNotFoundError:  # it was requested so that the cache notes that it does not exist
                if file.required:
                    raise
    if folder is None:
        raise HubFileError(f"{request} has none of {listed(names)}. It has {listed(sizes)}.")
    _remember_ref(folder, revision or "main", commit)
    return Snapshot(folder / prefix, repo_id, commit)


def fetch_sizes_and_commit(api: HfApi, repo_id: str, revision: str | None) -> tuple[dict[str, int | None], str]:
    """Asks the Hub for the files of a revision.

    Args:
        api: The client.
        repo_id: `user/name`.
        revision: Branch, tag or commit; the main branch for None.

    Returns:
        The size of each file in bytes by its path (None where the Hub does not say), and the commit that the revision
        stands for.

    Raises:
        HubServerError: the answer is not that of a Hub.
        HubOfflineError: it has not come within six times HF_HUB_ETAG_TIMEOUT, a minute by default.
    """
    from huggingface_hub import constants

    timeout = constants.HF_HUB_ETAG_TIMEOUT
    try:
        info = answer_within(
            _PATIENCE * timeout,
            lambda: api.model_info(repo_id, revision=revision, files_metadata=True, timeout=timeout),
            api.endpoint,
        )
        sizes = {file.rfilename: file.size for file in info.siblings or []}
        commit = info.sha if info.sha and _COMMIT.fullmatch(info.sha) else None
    except (AttributeError, KeyError, TypeError):
        sizes, commit = {}, None
    if commit is None:
        raise HubServerError(f"What {api.endpoint} answers about '{repo_id}' is no answer of a Hub. Check HF_ENDPOINT.")
    return sizes, commit


@dataclass(frozen=True)
class _Request:
    """Files of one revision, as they were asked for."""

    repo_id: str
    revision: str | None
    cache_dir: str | None
    names: dict[str, RepoFile]

    def __str__(self) -> str:
        return f"'{self.repo_id}'" + (f" at '{self.revision}'" if self.revision else "")

    def check(self, sizes: Mapping[str, int | None]) -> None:
        for name, file in self.names.items():
            if name not in sizes:
                if file.required:
                    raise HubFileError(f"{self} has no '{name}'. It has {listed(sizes)}.{_instead(sizes, name)}")
            elif not isinstance(size := sizes[name], int) or not 0 <= size <= file.max_bytes:
                raise HubFileError(
                    f"'{name}' in {self} has {size} bytes; at most {file.max_bytes} are fetched. If it is what "
                    "you want, download it yourself and load the folder."
                )

    def in_cache_of(self, revision: str | None, name: str) -> Any:
        """A path, `_CACHED_NO_EXIST`, or None."""
        from huggingface_hub import try_to_load_from_cache

        return try_to_load_from_cache(self.repo_id, name, cache_dir=self.cache_dir, revision=revision)

    def in_cache(self, *, complete: bool) -> Snapshot | None:
        """The snapshot in the cache, or None if required files are missing there.

        Args:
            complete: Return None also if it is unknown whether an optional file exists.
        """
        from huggingface_hub import _CACHED_NO_EXIST

        folder, prefix = None, ""
        for name, file in self.names.items():
            path = self.in_cache_of(self.revision, name)
            if isinstance(path, str):
                folder, prefix = _snapshot_folder(path, name), name.removesuffix(file.name)
            elif file.required or (complete and path is not _CACHED_NO_EXIST):
                return None
        return None if folder is None else Snapshot(folder / prefix, self.repo_id, folder.name)


def _snapshot_folder(path: str, name: str) -> Path:
    return Path(path).parents[name.count("/")]


def _remember_ref(snapshot: Path, revision: str, commit: str) -> None:
    """Notes the commit of a branch where the client looks for it, to be used without network."""
    if revision == commit or not re.fullmatch(r"(?!.*\.\.)\w[\w./-]*", revision):
        return
    ref = snapshot.parents[1] / "refs" / revision
    try:
        if not ref.is_file() or read_file(ref, _MAX_REF_BYTES) != commit.encode():
            write_file(ref, commit)
    except OSError as error:  # a cache that cannot be written is still one to read from
        logger.info("The cache cannot note that %s is at %s: %s", revision, commit, error)


def _instead(sizes: Mapping[str, Any], name: str) -> str:
    file = name.rpartition("/")[2]
    if places := [path for path in sizes if path.endswith("/" + file)]:
        return f" Give `subfolder=`: '{file}' lies in {listed(path.rpartition('/')[0] for path in places)}."
    if any(path.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")) for path in sizes):
        return " Pickled weights are never read: they can run code. Ask its authors for safetensors."
    return ""


def prefix_of(subfolder: str | None) -> str:
    """The start of the paths of all files in a folder of a repository; empty for the repository itself.

    Args:
        subfolder: The folder, or None.

    Raises:
        AdapterNameError: it is no path inside the repository.

    Example:
        >>> prefix_of("worlds/fer"), prefix_of(None)
        ('worlds/fer/', '')
    """
    if not subfolder:
        return ""
    parts = subfolder.strip("/").split("/") if isinstance(subfolder, str) and not subfolder.startswith("/") else [""]
    if not all(re.fullmatch(r"[A-Za-z0-9][\w.-]*", part, re.ASCII) for part in parts):
        raise AdapterNameError(f"`subfolder` must be a path inside the repository, such as 'fer'; got {subfolder!r}.")
    return "/".join(parts) + "/"
