"""Loads encoders from folders and repositories of this library, transformers or timm."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from torch import nn

from ..door import open_file
from ..errors import AdapterFileError
from ..hub import MAX_WEIGHTS_BYTES, RepoFile, read_pretrained
from ..preprocessing import Preprocessing
from ..saving.adapter_folder import PREPROCESSOR_FILE
from ..saving.files import MAX_JSON_BYTES, read_json
from . import folder, from_timm, from_transformers
from .attributes import set_attributes, with_preprocessing
from .folder import CONFIG_FILE, WEIGHTS_FILE

__all__ = ["load"]


def load(source: str, *, pretrained: bool = True, preprocessing: Preprocessing | None = None, **hub: Any) -> nn.Module:
    """Loads the encoder in a folder or repository.

    Args:
        source: A folder that `save_encoder`, `save_pretrained` of transformers or timm's `push_to_hf_hub` wrote; or
            `user/name` on the Hub.
        pretrained: Whether to load its weights; otherwise they are random.
        preprocessing: Replaces the preprocessing that it comes with.
        hub: `revision`, `token` and the like, as `ciao_peft.hub.read_pretrained` takes them.

    Returns:
        The encoder, with its `name`, `revision` and, where it is known, `preprocessing`.

    Raises:
        AdapterFileError: a file is missing, damaged or not of an encoder.
        ConfigError: the image processor does what `Preprocessing` does not.
        HubError: the Hub does not give the files.

    Example:
        >>> import tempfile
        >>> from ciao_peft import load_encoder
        >>> from ciao_peft.encoders import save_encoder
        >>> path = save_encoder(load_encoder("small-face"), tempfile.mkdtemp() + "/mine")
        >>> load(str(path)).preprocessing.size
        (64, 64)
    """
    config, snapshot = read_pretrained(source, _config, [RepoFile(CONFIG_FILE, MAX_JSON_BYTES)], **hub)
    if snapshot.revision is not None:  # the other files must come from the same commit
        hub["revision"] = snapshot.revision
    if "ciao_encoder" not in config and ("model_type" in config or isinstance(config.get("architecture"), str)):
        return _foreign(source, pretrained, preprocessing, **hub)
    encoder = folder.load(source, pretrained=pretrained, **hub)
    return encoder if preprocessing is None else with_preprocessing(encoder, preprocessing)


def _config(where: Path) -> dict[str, Any]:
    return read_json(where / CONFIG_FILE)


def _foreign(source: str, pretrained: bool, preprocessing: Preprocessing | None, **hub: Any) -> nn.Module:
    def read(where: Path) -> tuple[nn.Module, str]:
        kind = from_transformers if "model_type" in _config(where) else from_timm
        weights = where / WEIGHTS_FILE
        if pretrained and not weights.is_file():
            raise AdapterFileError(
                f"'{where}' has no {WEIGHTS_FILE}. Weights in other formats may run code and are not read, nor are "
                "those in several files; save the model again as one file of safetensors."
            )
        encoder = kind.read(where, pretrained=pretrained, preprocessing=preprocessing)
        return encoder, _digest_of(weights) if pretrained else "random"

    files = [RepoFile(PREPROCESSOR_FILE, MAX_JSON_BYTES, required=False), RepoFile(CONFIG_FILE, MAX_JSON_BYTES)]
    files.append(RepoFile(WEIGHTS_FILE, MAX_WEIGHTS_BYTES, required=False))
    (encoder, revision), snapshot = read_pretrained(source, read, files, **hub)
    return set_attributes(encoder, name=source, revision=(snapshot.revision or revision) if pretrained else revision)


def _digest_of(weights: Path) -> str:
    digest = hashlib.sha256()
    with open_file(weights, MAX_WEIGHTS_BYTES, error=AdapterFileError) as file:
        while piece := file.read(2**22):
            digest.update(piece)
    return digest.hexdigest()[:16]
