"""Publishes a new state of a repository in one commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..door import read_file
from ..errors import HubConflictError, HubFileError, HubNotFoundError, HubOfflineError
from ..installed import check_installed
from .client import as_our_errors, must_stay_offline, open_client
from .downloading import fetch_sizes_and_commit, is_hub_id

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

__all__ = ["RepoHead", "publish"]

_MAX_TEXT_BYTES = 2**20
_MAX_TRIES = 4  # when somebody else's commit comes first


@dataclass(frozen=True)
class RepoHead:
    """The present state of a repository.

    Args:
        files: The paths of its files.
        read: Returns the text of a file, or None if there is no such file.

    Example:
        >>> texts = {"README.md": "# Worlds"}
        >>> head = RepoHead(frozenset(texts), texts.get)
        >>> head.read("README.md"), head.read("LICENSE")
        ('# Worlds', None)
    """

    files: frozenset[str]
    read: Callable[[str], str | None]


def publish(
    repo_id: str,
    change: Callable[[RepoHead], Mapping[str, bytes | None]],
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str = "Upload with ciao_peft",
    token: str | bool | None = None,
) -> CommitInfo:
    """Changes a repository in one commit, all files or none. The repository is created if it does not exist.

    When somebody else's commit comes first, the change is computed again on top of theirs.

    Args:
        repo_id: `user/name`.
        change: Returns the new content of files by path, given the present state; None deletes a file.
        private: Whether a new repository is visible to its owner alone.
        revision: The branch; it is created if it does not exist.
        create_pr: Whether to open a pull request instead of committing.
        commit_message: The commit message, one line.
        token: A token with the right to write.

    Returns:
        The commit; the present one if nothing changed.

    Raises:
        HubTokenError, HubNotFoundError, HubOfflineError, HubServerError: the Hub did not take it. Nothing has changed.
        HubConflictError: others published in between, again and again.

    Example:
        >>> publish("ciao-fer", lambda head: {"README.md": b"# A world"})
        Traceback (most recent call last):
        ...
        ciao_peft.errors.HubNotFoundError: 'ciao-fer' is no name of a repository; give `user/name`.
    """
    check_installed("huggingface-hub")
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete
    from huggingface_hub.errors import HfHubHTTPError

    if not is_hub_id(repo_id):
        raise HubNotFoundError(f"{repo_id!r} is no name of a repository; give `user/name`.")
    if must_stay_offline(False):
        raise HubOfflineError(f"Nothing was published to '{repo_id}': HF_HUB_OFFLINE is set. Unset it to publish.")
    api = open_client(token)
    with as_our_errors(f"'{repo_id}'", api, repo_id):
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        for _ in range(_MAX_TRIES):
            sizes, commit = fetch_sizes_and_commit(api, repo_id, revision)
            after = change(RepoHead(frozenset(sizes), lambda path: _read_text(api, repo_id, path, sizes, commit)))  # noqa: B023
            operations = [
                CommitOperationDelete(path) if content is None else CommitOperationAdd(path, content)
                for path, content in after.items()
                if content is not None or path in sizes
            ]
            try:
                return api.create_commit(
                    repo_id,
                    operations,
                    commit_message=commit_message,
                    revision=revision,
                    create_pr=create_pr,
                    parent_commit=commit,  # files left out as unchanged would be those of another publisher otherwise
                )
            except HfHubHTTPError as error:
                if error.response is None or error.response.status_code not in (409, 412):
                    raise
    raise HubConflictError(
        f"Others published to '{repo_id}' in between, {_MAX_TRIES} times. Nothing was published; try again later."
    )


def _read_text(api: HfApi, repo_id: str, path: str, sizes: Mapping[str, int | None], commit: str) -> str | None:
    if path not in sizes:
        return None
    if (sizes[path] or 0) > _MAX_TEXT_BYTES:
        raise HubFileError(f"'{path}' in '{repo_id}' has {sizes[path]} bytes, too many for a text to be kept.")
    fetched = api.hf_hub_download(repo_id, path, revision=commit)
    return read_file(fetched, _MAX_TEXT_BYTES, error=HubFileError).decode("utf-8", "replace").replace("\r\n", "\n")
