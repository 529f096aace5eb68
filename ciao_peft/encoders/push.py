"""Publishes encoders on the Hub, with a card and in one commit."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..cards.contents import card_without_record, encoder_card, text_reader
from ..cards.page import merge_cards
from ..door import read_file
from ..errors import AdapterFileError
from ..hub import RepoHead, publish
from ..hub.downloading import MAX_WEIGHTS_BYTES
from ..saving.adapter_folder import CARD_FILE, PREPROCESSOR_FILE
from ..saving.files import local_path, read_json
from .folder import CONFIG_FILE, WEIGHTS_FILE, load, save_encoder

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

__all__ = ["publish_encoder", "push_encoder"]


def push_encoder(
    encoder: nn.Module, repo_id: str, *, training: Mapping[str, Any] | None = None, **hub: Any
) -> CommitInfo:
    """Publishes an encoder, so that `load_encoder(repo_id)` loads it bit for bit.

    Args:
        encoder: An encoder that `load_encoder` made; its weights may have been trained since.
        repo_id: `user/name`; the repository is created if it does not exist.
        training: Data and settings of its training, as plain data; `adapter_card` says what the card shows of it.
        **hub: `private`, `revision`, `create_pr`, `commit_message` and `token`, as `ciao_peft.hub.publish` takes them.

    Returns:
        The commit.

    Raises:
        ConfigError: the network is no encoder of this library.
        HubError: a subclass says why the Hub does not accept it.
    """
    with tempfile.TemporaryDirectory() as aside:
        folder = save_encoder(encoder, Path(aside) / "encoder", training=training)
        (folder / CARD_FILE).unlink(missing_ok=True)
        return publish_encoder(folder, repo_id, **hub)


def publish_encoder(folder: str | os.PathLike[str], repo_id: str, **hub: Any) -> CommitInfo:
    """Publishes a folder that `save_encoder` wrote. A damaged folder is refused before anything is sent.

    Args:
        folder: The folder.
        repo_id: `user/name`; the repository is created if it does not exist.
        hub: As for `push_encoder`.

    Returns:
        The commit.

    Raises:
        AdapterFileError: the folder is damaged or incomplete.
        HubError: a subclass says why the Hub does not take it.
    """
    folder = local_path(folder)
    encoder = load(str(folder))
    record = read_json(folder / CONFIG_FILE)
    names = (CONFIG_FILE, WEIGHTS_FILE, PREPROCESSOR_FILE)
    files = {name: read_file(folder / name, MAX_WEIGHTS_BYTES, error=AdapterFileError) for name in names}
    mine = card_without_record(text_reader(folder), CONFIG_FILE)
    size = sum(parameter.numel() for parameter in encoder.parameters())

    def change(head: RepoHead) -> dict[str, bytes | None]:
        existing = merge_cards(mine, card_without_record(head.read, CONFIG_FILE))
        return {**files, CARD_FILE: encoder_card(record, repo_id, existing=existing, num_parameters=size).encode()}

    return publish(repo_id, change, **hub)
