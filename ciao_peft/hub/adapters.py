"""Reads, saves and publishes an adapter's folder with its card, on disk or on the Hub."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..cards import adapter_card, card_without_record, collection_card, merge_cards, text_reader
from ..door import read_file
from ..errors import AdapterFileError
from ..remote import RepoFile, is_url, parse_url, save_folder
from ..saving import (
    CARD_FILE,
    CONFIG_FILE,
    MAX_JSON_BYTES,
    PICTURE_FILE,
    PREPROCESSOR_FILE,
    WEIGHTS_FILE,
    SavedAdapter,
    load_adapter,
    read_json,
    save_adapter,
)
from ..saving.auto_class_files import HUB_CONFIG_FILE, hub_config, is_no_other_models
from ..saving.files import local_path
from .bundled import bundled_folder, list_adapters, names_in_mind
from .downloading import MAX_WEIGHTS_BYTES, Snapshot, prefix_of, read_pretrained
from .publishing import RepoHead, publish

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

__all__ = ["ADAPTER_FILES", "name_from", "publish_adapter", "read_adapter", "save_with_card"]

ADAPTER_FILES = (
    RepoFile(PREPROCESSOR_FILE, MAX_JSON_BYTES, required=False),
    RepoFile(CONFIG_FILE, MAX_JSON_BYTES),
    RepoFile(WEIGHTS_FILE, MAX_WEIGHTS_BYTES),
)
"""The files of an adapter. The weights come last: a folder that has them has the other files, too."""

_READ_BEFORE = tuple(RepoFile(name, MAX_JSON_BYTES) for name in (CARD_FILE, HUB_CONFIG_FILE, CONFIG_FILE))
"""What a save looks at: the card with what people wrote, and whether `config.json` is another model's."""

_PNG = b"\x89PNG\r\n\x1a\n"


def name_from(source: str | os.PathLike[str], subfolder: str | None = None) -> str:
    """The name of an adapter that is loaded without one: the last part of its folder or repository.

    Args:
        source: A folder, or `user/name` on the Hub.
        subfolder: The folder inside it, if any.

    Example:
        >>> name_from("user/ciao-fer"), name_from("user/worlds", subfolder="fer")
        ('ciao-fer', 'fer')
    """
    return Path(subfolder or source).name


def read_adapter(source: str | os.PathLike[str], **hub: Any) -> tuple[SavedAdapter, Snapshot]:
    """Reads an adapter from a folder, from the package or from the Hub.

    Args:
        source: A folder that `save_pretrained` wrote, a name of `list_adapters()`, `user/name` on the Hub, or the URL
            of a folder in a store.
        **hub: `subfolder`, `revision`, `token`, `cache_dir`, `local_files_only`, `force_download` and
            `storage_options`, as `read_pretrained` takes them.

    Returns:
        The adapter, and the folder that it was read from.

    Raises:
        AdapterFileError, AdapterConfigError: the folder is damaged, incomplete or foreign.
        HubError: a subclass says why the Hub does not give the files.

    Example:
        >>> import tempfile
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
        >>> saved, snapshot = read_adapter(model.save_pretrained(Path(tempfile.mkdtemp(), "fer")))
        >>> saved.config.num_labels, snapshot.folder.name, snapshot.repo_id is None
        (2, 'fer', True)
    """
    if (folder := bundled_folder(source, hub)) is not None:
        return read_pretrained(folder, load_adapter, ADAPTER_FILES, **hub)
    with names_in_mind(source, hub):
        return read_pretrained(source, load_adapter, ADAPTER_FILES, **hub)


def save_with_card(
    folder: str | os.PathLike[str],
    adapter: SavedAdapter,
    picture: bytes | None = None,
    *,
    name: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Path:
    """Writes an adapter's folder with its model card; what people wrote on the present card stays.

    Args:
        folder: The folder to write, or the URL of one in a store.
        adapter: The adapter.
        picture: A PNG of what the mask lets through, for the card.
        name: The repository or folder that the card's code loads; `folder` when left out.
        storage_options: For a URL, as for `read_pretrained`.

    Returns:
        The folder; for a URL, the same in the cache.

    Raises:
        AdapterFileError: it cannot be written, or `picture` is no PNG.
        RemoteError: a subclass says why the store does not take it.

    Example:
        >>> import tempfile
        >>> from ciao_peft import CIAOConfig, get_ciao_model, load_encoder
        >>> model = get_ciao_model(load_encoder("small-face"), CIAOConfig(problem_type="regression", num_labels=2))
        >>> folder = save_with_card(Path(tempfile.mkdtemp(), "fer"), model.saved_adapter(), name="user/ciao-fer")
        >>> 'from_pretrained("user/ciao-fer"' in (folder / "README.md").read_text()
        True
    """
    if picture is not None and not picture.startswith(_PNG):
        raise AdapterFileError("`picture` is no PNG file's content; give the bytes of one.")
    if is_url(folder):
        url = parse_url(str(folder))
        return save_folder(
            url,
            lambda here: save_with_card(here, adapter, picture, name=name or str(url)),
            ADAPTER_FILES,
            kept=_READ_BEFORE,
            absent=(PICTURE_FILE,),
            storage_options=storage_options,
        )
    existing = card_without_record(text_reader(local_path(folder)), CONFIG_FILE)
    has: dict[str, Any] = {"picture": picture is not None, "prepares": adapter.preprocessing is not None}
    has["dtype"] = _smaller_dtype(adapter)

    def extra_files(record: Mapping[str, Any]) -> dict[str, bytes]:
        files = {CARD_FILE: adapter_card(record, name or str(folder), existing=existing, **has).encode()}
        return files if picture is None else {**files, PICTURE_FILE: picture}

    return save_adapter(folder, adapter, extra_files)


def _smaller_dtype(adapter: SavedAdapter) -> str | None:
    """The dtype for its card, where that is no wide one; of weights in int8 the record says it."""
    dtypes = {tensor.dtype for tensor in adapter.tensors.values() if tensor.is_floating_point() and tensor.ndim > 1}
    return "float16" if dtypes == {torch.float16} else None


def publish_adapter(
    folder: str | os.PathLike[str], repo_id: str, *, subfolder: str | None = None, **hub: Any
) -> CommitInfo:
    """Publishes a saved adapter in one commit. What is damaged is refused before anything is sent.

    What people wrote on the card stays. Where both the folder's and the repository's card have prose or a metadata key,
    the folder's wins.

    Args:
        folder: A folder that `save_pretrained` wrote.
        repo_id: `user/name`. One that is a name of `list_adapters()` draws a warning: without a `revision`, that name
            loads the adapter in the package.
        subfolder: The folder inside a repository that holds several adapters.
        **hub: `private`, `revision`, `create_pr`, `commit_message` and `token` as `publish` takes them.

    Returns:
        The commit.

    Raises:
        AdapterFileError: the folder is damaged or incomplete.
        HubError: a subclass says why the Hub does not take it.

    Example:
        >>> publish_adapter("no/such/folder", "user/ciao-fer")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ciao_peft.errors.AdapterFileError: No adapter folder at 'no/such/folder'. ...
    """
    folder, prefix = local_path(folder), prefix_of(subfolder)
    saved = load_adapter(folder)
    if repo_id in list_adapters():
        warnings.warn(
            f"'{repo_id}' is also an adapter in this package, which is what that name loads; load this one with "
            "`revision='main'`, or publish it under another name.",
            stacklevel=2,
        )
    record = read_json(folder / CONFIG_FILE)
    files: dict[str, bytes | None] = {
        file: read_file(folder / file, MAX_WEIGHTS_BYTES, error=AdapterFileError) if (folder / file).is_file() else None
        for file in (CONFIG_FILE, WEIGHTS_FILE, PREPROCESSOR_FILE, PICTURE_FILE)
    }
    mine = card_without_record(text_reader(folder), CONFIG_FILE)
    has: dict[str, Any] = {"picture": files[PICTURE_FILE] is not None, "dtype": _smaller_dtype(saved)}
    has["prepares"] = files[PREPROCESSOR_FILE] is not None
    name = f"{repo_id}" if not prefix else f'{repo_id}", subfolder="{prefix.rstrip("/")}'

    def change(head: RepoHead) -> dict[str, bytes | None]:
        theirs = card_without_record(lambda file: head.read(prefix + file), CONFIG_FILE)
        card = adapter_card(record, name, existing=merge_cards(mine, theirs), **has)
        changes = {**files, CARD_FILE: card.encode()}
        if is_no_other_models(head.read(prefix + HUB_CONFIG_FILE)):
            changes[HUB_CONFIG_FILE] = hub_config(saved.config)
        changes = {prefix + path: content for path, content in changes.items()}
        if prefix:
            others = {path.removesuffix("/" + CONFIG_FILE) for path in head.files if path.endswith("/" + CONFIG_FILE)}
            folders = sorted({*others, prefix.rstrip("/")})
            changes[CARD_FILE] = collection_card(record, repo_id, folders, head.read(CARD_FILE)).encode()
        return changes

    return publish(repo_id, change, **hub)
