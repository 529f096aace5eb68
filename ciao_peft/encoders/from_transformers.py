"""Loads encoders of transformers. No code of a repository is run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import AdapterFileError, CIAOError, ConfigError, shortened
from ..installed import check_installed
from ..preprocessing import Preprocessing
from ..saving.adapter_folder import PREPROCESSOR_FILE
from ..saving.files import read_json
from .attributes import set_attributes, with_preprocessing
from .bounds import bounded_building, check_config, weights_budget
from .from_timm import check_settings

__all__ = ["build", "read"]


def read(folder: Path, *, pretrained: bool = True, preprocessing: Preprocessing | None = None) -> nn.Module:
    """Reads the model in a folder that `save_pretrained` of transformers wrote, without its classifier.

    Args:
        folder: A folder with `config.json`, `model.safetensors` and, if it has one, `preprocessor_config.json`.
        pretrained: Whether to load its weights; otherwise they are random.
        preprocessing: Replaces what `preprocessor_config.json`, or the config of a wrapped model of timm, says. Without
            any of them the preprocessing is unknown.

    Returns:
        The model in float32.

    Raises:
        AdapterFileError: transformers does not know the model, or a file is damaged or incomplete.
        ConfigError: the image processor does what `Preprocessing` does not; give a `preprocessing` of your own.
        OutdatedPackageError: transformers is older than the bound of this library.
    """
    check_installed("transformers")
    from transformers import AutoConfig, AutoModel

    missing = []
    path, weights = folder / "config.json", folder / "model.safetensors"
    try:
        if os.path.lexists(folder / "adapter_config.json"):  # transformers would load what it names in its place
            raise ConfigError(
                "an adapter lies there too, in 'adapter_config.json'. Give the model a folder of its own."
            )
        _check(read_json(path), str(path))
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with bounded_building(weights_budget(weights), str(path)):
            if pretrained:
                encoder, report = AutoModel.from_pretrained(
                    folder,
                    config=config,
                    trust_remote_code=False,
                    local_files_only=True,
                    use_safetensors=True,
                    output_loading_info=True,
                )
                missing = sorted(report["missing_keys"])
            else:
                encoder = AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # transformers raises nearly anything at what it does not know
        said = shortened(str(error) if isinstance(error, CIAOError) else f"{type(error).__name__}: {error}", 2000)
        raise AdapterFileError(f"The model of transformers in '{folder}' cannot be loaded: {said}") from error
    if missing:
        few = ", ".join(map(repr, missing[:4])) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise AdapterFileError(
            f"The weights in '{folder}' lack {few}; transformers would fill them with random numbers. Save the model "
            "again with `save_pretrained`."
        )
    return _with_attributes(encoder.float(), preprocessing or _preprocessing_of(folder, encoder))


def build(**architecture: Any) -> nn.Module:
    """Builds the model of a config of transformers, with random weights.

    Args:
        architecture: The config, with `model_type`.

    Returns:
        The model; its preprocessing is unknown.

    Raises:
        ConfigError: the config wraps a model of timm and takes weights from elsewhere.
        OutdatedPackageError: transformers is older than the bound of this library.

    Example:
        >>> encoder = build(model_type="resnet", embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
        >>> encoder.encoder_type, encoder.revision
        ('transformers', 'random')
    """
    check_installed("transformers")
    from transformers import AutoConfig, AutoModel

    _check(architecture, "the file of a model of transformers")
    config = AutoConfig.for_model(**architecture)
    return _with_attributes(AutoModel.from_config(config, trust_remote_code=False), None)


def _check(config: dict[str, Any], where: str) -> None:
    if config.get("model_type") == "timm_wrapper":  # passes its `model_args` on to timm
        check_settings(config.get("architecture"), config.get("model_args") or {})
    check_config(config, where)


def _preprocessing_of(folder: Path, encoder: nn.Module) -> Preprocessing | None:
    path = folder / PREPROCESSOR_FILE
    # A wrapped model of timm has no such file: its config describes the preprocessing. A link to nowhere is no absence.
    if os.path.lexists(path):
        return Preprocessing.from_image_processor(read_json(path))
    return Preprocessing.for_backbone(encoder)


def _with_attributes(encoder: Any, preprocessing: Preprocessing | None) -> nn.Module:
    architecture = json.loads(encoder.config.to_json_string())
    set_attributes(encoder, encoder_type="transformers", architecture=architecture, revision="random")
    return encoder if preprocessing is None else with_preprocessing(encoder, preprocessing)
