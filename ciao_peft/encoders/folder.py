"""Saves and loads encoders as folders, on disk or on the Hub: config, weights, preprocessing and card."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..cards.contents import card_without_record, encoder_card, text_reader
from ..door import read_file
from ..errors import AdapterConfigError, AdapterFileError, CIAOError, ConfigError, listed, quoted, shortened
from ..hub import MAX_WEIGHTS_BYTES, is_hub_id, read_pretrained
from ..preprocessing import Preprocessing
from ..remote import RepoFile, is_url, parse_url, save_folder
from ..saving.adapter_folder import CARD_FILE, PREPROCESSOR_FILE, library_versions
from ..saving.digest import DIGEST, check_digest, read_covered, sha256_of, with_digest
from ..saving.files import MAX_JSON_BYTES, local_path, read_json, read_steadily, to_json, write_folder
from ..saving.safetensors_file import MAX_HEADER_BYTES, parse_tensors
from .attributes import ORIGIN, set_attributes, with_preprocessing
from .bounds import bounded_building, check_config, weights_budget

__all__ = ["CONFIG_FILE", "FORMAT_VERSION", "WEIGHTS_FILE", "load", "load_weights", "save_encoder"]

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
FORMAT_VERSION = 2
_WITHOUT_DIGEST = 1  # the last version whose folders have none
# The function that builds each type of encoder. No name in a config is ever imported.
_TYPES = {
    "dlib-face": "dlib_face:build",
    "prior_knowledge": "prior_knowledge:build",
    "small-face": "small_face:build",
    "timm": "from_timm:build",
    "transformers": "from_transformers:build",
    "vggface2": "vggface2:build",
}
_FILES = (
    RepoFile(PREPROCESSOR_FILE, MAX_JSON_BYTES),
    RepoFile(CONFIG_FILE, MAX_JSON_BYTES),
    RepoFile(WEIGHTS_FILE, MAX_WEIGHTS_BYTES),
)
_KEYS = {"ciao_encoder", "format_version", "architecture", "weights_sha256", "versions", "training"}


def save_encoder(
    encoder: nn.Module,
    folder: str | os.PathLike[str],
    *,
    training: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Path:
    """Writes an encoder that `load_encoder(folder)` reads back bit for bit.

    A reader sees the old folder or the new one, never a mixture. Text that people wrote on the card stays.

    Args:
        encoder: An encoder that `load_encoder` made; its weights may have been trained since.
        folder: The folder; it is created if it does not exist. Or the URL of one in a store.
        training: Data and settings of the encoder's training, as plain data; stored in `config.json`.
        storage_options: For a URL, as for `ciao_peft.hub.read_pretrained`.

    Returns:
        The folder; for a URL, the same in the cache.

    Raises:
        ConfigError: the network is no encoder of this library, so that it could not be built again.
        AdapterFileError: the folder cannot be written.
        RemoteError: a subclass says why the store does not take it.

    Example:
        >>> import tempfile
        >>> from ciao_peft import load_encoder
        >>> folder = save_encoder(load_encoder("small-face"), tempfile.mkdtemp() + "/mine")
        >>> load_encoder(folder).input_size
        (3, 64, 64)
    """
    if is_url(folder):
        return save_folder(
            parse_url(str(folder)),
            lambda here: _write(encoder, here, training, str(folder)),
            _FILES,
            kept=(RepoFile(CARD_FILE, MAX_JSON_BYTES), RepoFile(CONFIG_FILE, MAX_JSON_BYTES)),
            storage_options=storage_options,
        )
    return _write(encoder, folder, training, os.fspath(folder))


def _write(encoder: nn.Module, folder: str | os.PathLike[str], training: Mapping[str, Any] | None, name: str) -> Path:
    from safetensors.torch import save

    kind, preprocessing = getattr(encoder, "encoder_type", None), getattr(encoder, "preprocessing", None)
    if kind not in _TYPES or not isinstance(preprocessing, Preprocessing):
        raise ConfigError(
            f"{type(encoder).__name__} is no encoder that `load_encoder` made, and cannot be built again from a "
            "config. Save its weights yourself, build it yourself, and give it to `get_ciao_model`."
        )
    tensors = {key: value.detach().to("cpu").contiguous().clone() for key, value in encoder.state_dict().items()}
    weights = save(tensors, metadata={"format": "pt"})
    config = {
        "ciao_encoder": kind,
        "format_version": FORMAT_VERSION,
        "architecture": encoder.architecture,
        "weights_sha256": sha256_of(weights),
        "versions": library_versions(),
        "training": {**getattr(encoder, "origin", {}), **(training or {})},
    }
    try:
        files = {WEIGHTS_FILE: weights, PREPROCESSOR_FILE: to_json(preprocessing.to_dict())}
        described = with_digest(config, {name: sha256_of(content) for name, content in files.items()})
    except (TypeError, ValueError) as error:
        raise ConfigError(f"The encoder's settings cannot be written as JSON: {error}") from error
    existing = card_without_record(text_reader(local_path(folder)), CONFIG_FILE)
    size = sum(parameter.numel() for parameter in encoder.parameters())
    files[CARD_FILE] = encoder_card(config, name, existing=existing, num_parameters=size).encode()
    files[CONFIG_FILE] = described  # the last one to be written
    return write_folder(folder, files)


def load(source: str, *, pretrained: bool = True, **hub: Any) -> nn.Module:
    """Loads the encoder in a folder or repository.

    Args:
        source: A folder that `save_encoder` wrote, `user/name` on the Hub, or a URL.
        pretrained: Whether to load its weights; otherwise they are random.
        hub: `revision`, `token` and the like, as `ciao_peft.hub.read_pretrained` takes them.

    Returns:
        The encoder, with its `name`, `revision` and `preprocessing`.

    Raises:
        AdapterFileError: a file is missing, damaged or not of an encoder.
        HubError: the Hub does not give the files.

    Example:
        >>> import tempfile
        >>> from ciao_peft import load_encoder
        >>> folder = save_encoder(load_encoder("small-face"), tempfile.mkdtemp() + "/mine")
        >>> load(str(folder), pretrained=False).revision
        'random'
    """

    def read(folder: Path) -> nn.Module:
        return read_steadily(folder, lambda place: _read(place, pretrained))

    encoder, snapshot = read_pretrained(source, read, _FILES, **hub)
    set_attributes(encoder, name=source)
    if snapshot.revision and pretrained:
        set_attributes(encoder, revision=snapshot.revision)
    return encoder


def load_weights(kind: str, source: str | os.PathLike[str], **settings: Any) -> nn.Module:
    """Loads the encoder in a folder or repository, which must be of this type.

    Args:
        kind: The type of the encoder: `"vggface2"`, `"prior_knowledge"` or another.
        source: A folder that `save_encoder` wrote, `user/name` on the Hub, or a URL.
        settings: As for `load`.

    Returns:
        The encoder.

    Raises:
        ConfigError: `source` is neither a folder nor `user/name`.
        AdapterFileError: a file is missing, damaged, or of no encoder or another encoder.
        HubError: the Hub does not give the files.

    Example:
        >>> import tempfile
        >>> from ciao_peft import load_encoder
        >>> folder = save_encoder(load_encoder("small-face"), tempfile.mkdtemp() + "/mine")
        >>> load_weights("small-face", folder).input_size
        (3, 64, 64)
    """
    text = os.path.expanduser(os.fspath(source))
    if not os.path.isdir(text) and (os.path.isfile(text) or not (is_hub_id(text) or is_url(text))):
        is_what = "is a file" if os.path.isfile(text) else "is neither a folder nor `user/name` nor a URL"
        raise ConfigError(
            f"`weights` must be an encoder's folder or repository; {quoted(text)} {is_what}. Weights of VGG16 in other "
            "layouts become a folder with `ciao convert-encoder SOURCE FOLDER`."
        )
    encoder = load(text, **settings)
    if encoder.encoder_type != kind:
        raise AdapterConfigError(
            f"'{text}' holds an encoder of type {quoted(encoder.encoder_type)}, not {quoted(kind)}; "
            f"`load_encoder({quoted(text)})` loads whatever it is."
        )
    return encoder


def _read(folder: Path, pretrained: bool) -> nn.Module:
    path = folder / CONFIG_FILE
    config = read_json(path)
    kind = config.get("ciao_encoder")
    if kind is None:
        raise AdapterConfigError(f"'{path}' is not of an encoder of this library.{_instead(config)}")
    version = config.get("format_version")
    if (
        type(version) is not int
        or not 1 <= version <= FORMAT_VERSION
        or not isinstance(kind, str)
        or kind not in _TYPES
    ):
        raise AdapterConfigError(
            f"'{path}' is of an encoder of type {shortened(repr(kind))} in format {shortened(repr(version))}; this "
            f"version reads {listed(_TYPES)} up to format {FORMAT_VERSION}. Upgrade: pip install -U ciao_peft."
        )
    keys = _KEYS | ({DIGEST} if version > _WITHOUT_DIGEST else set())
    if set(config) != keys or not isinstance(config["architecture"], dict):
        raise AdapterConfigError(f"'{path}' must have exactly {listed(keys)}; it has {listed(config)}.")
    preprocessing, preprocessing_sha256 = read_covered(folder / PREPROCESSOR_FILE)
    if version > _WITHOUT_DIGEST:
        # The weights by what the config says of them: they are compared with that below, when they are read.
        covered = {WEIGHTS_FILE: config["weights_sha256"], PREPROCESSOR_FILE: preprocessing_sha256}
        check_digest(config, covered, path, version=_WITHOUT_DIGEST)
    module, function = _TYPES[kind].split(":")
    build = getattr(importlib.import_module(f".{module}", __package__), function)
    weights = folder / WEIGHTS_FILE
    try:
        if kind not in ("timm", "transformers"):  # which look through it themselves
            check_config(config["architecture"], str(path))
        with bounded_building(weights_budget(weights), str(path)):
            encoder = build(**config["architecture"])
        with_preprocessing(encoder, Preprocessing.from_dict(preprocessing))
    except (AdapterFileError, MemoryError, RecursionError):
        raise
    except Exception as error:  # the builders of timm and transformers raise nearly anything at what they do not know
        said = shortened(f"{type(error).__name__}: {error}" if not isinstance(error, CIAOError) else str(error), 2000)
        raise AdapterConfigError(f"No encoder can be built from '{path}': {said}") from error
    if not pretrained:
        return encoder
    largest = MAX_HEADER_BYTES + 2 * sum(tensor.nbytes for tensor in encoder.state_dict().values())
    content = read_file(weights, largest, error=AdapterFileError)
    digest = sha256_of(content)
    if digest != config["weights_sha256"]:
        raise AdapterFileError(
            f"'{weights}' does not have the checksum in its config: it was damaged or replaced. Save the encoder "
            "again, or download it anew."
        )
    try:
        encoder.load_state_dict(parse_tensors(content, weights))
    except RuntimeError as error:
        said = shortened(str(error), 2000)
        raise AdapterFileError(f"'{weights}' does not fit the encoder that its config describes: {said}") from error
    if isinstance(origin := getattr(encoder, "origin", None), dict):  # where others' weights came from stays with them
        known = config["training"] if isinstance(config["training"], dict) else {}
        set_attributes(encoder, origin=origin | {key: known[key] for key in ORIGIN if key in known})
    return set_attributes(encoder, revision=digest[:16])


def _instead(config: Mapping[str, Any]) -> str:
    theirs = "transformers" if "model_type" in config else "timm" if isinstance(config.get("architecture"), str) else ""
    return f" It is a model of {theirs}." if theirs else " Give a folder that `save_encoder` wrote."
