"""Encoders of timm, under `timm/NAME`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from torch import nn

from ..checkpoints import read_json
from ..errors import AdapterFileError, EncoderNotFoundError
from ..preprocessing import Preprocessing

# Of a repository's `pretrained_cfg`: what the network is fed, and where its first and last layers are. Not from where
# else weights could be fetched, nor how.
_FED = {
    *("input_size", "fixed_input_size", "min_input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std"),
    *("num_classes", "label_offset", "pool_size", "first_conv", "classifier", "tag"),
}


def load(name: str, *, pretrained: bool = True, **settings: Any) -> nn.Module:
    """A model of timm without its classifier, with what an encoder has beside.

    Args:
        name: As `timm.list_models()` has it, perhaps with a tag of pretrained weights: `resnet18.a1_in1k`.
        pretrained: Weights from the Hub, or random ones.
        settings: For `timm.create_model`.

    Raises:
        EncoderNotFoundError: timm has no such model, or no such weights.
    """
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f" Close to it: {', '.join(close)}." if close else ""
        raise EncoderNotFoundError(f"timm has no model {architecture!r}.{hint} `timm.list_models()` has them all.")
    if tag and name not in (known := timm.list_pretrained(f"{architecture}.*")):
        raise EncoderNotFoundError(
            f"timm has no weights {tag!r} of {architecture!r}; it has: {', '.join(known) or 'none'}."
        )
    encoder = build(name, pretrained=pretrained, **settings)
    # The full name of the weights that were chosen: without it, another version of timm may choose others.
    tag = encoder.pretrained_cfg.get("tag")
    encoder.name = f"timm/{architecture}.{tag}" if pretrained and tag else f"timm/{architecture}"
    encoder.revision = tag or "default" if pretrained else "random"
    return encoder


def build(name: str, *, pretrained: bool = False, **settings: Any) -> nn.Module:
    """What `timm.create_model` makes, without classifier unless `num_classes` asks for one, and its preprocessing."""
    import timm

    settings = {"num_classes": 0} | settings
    return _described(timm.create_model(name, pretrained=pretrained, **settings), name, settings, None)


def read(folder: Path, *, pretrained: bool = True, preprocessing: Preprocessing | None = None) -> nn.Module:
    """The model of a folder as `timm.models.push_to_hf_hub` writes it, without its classifier.

    Args:
        folder: With `config.json` and `model.safetensors`.
        pretrained: Its weights, or random ones.
        preprocessing: In place of what `config.json` says.

    Raises:
        AdapterFileError: timm does not know the model, or a file is damaged or does not fit.
    """
    import timm
    from safetensors import SafetensorError

    config = read_json(folder / "config.json")
    told, settings = config.get("pretrained_cfg") or {}, config.get("model_args") or {}
    try:
        fed = {key: value for key, value in told.items() if key in _FED}
        if pretrained:
            fed["file"] = str(folder / "model.safetensors")
        settings = {**settings, "num_classes": 0}
        encoder = timm.create_model(config["architecture"], pretrained=pretrained, pretrained_cfg=fed, **settings)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise AdapterFileError(f"The model of timm in '{folder}' cannot be loaded: {error}") from error
    return _described(encoder, config["architecture"], settings, preprocessing)


def _described(
    encoder: nn.Module, name: str, settings: dict[str, Any], preprocessing: Preprocessing | None
) -> nn.Module:
    encoder.encoder_type, encoder.architecture = "timm", {"name": name, **settings}
    encoder.preprocessing = preprocessing or Preprocessing.for_backbone(encoder)
    encoder.input_size = encoder.preprocessing.input_size
    encoder.revision = "random"
    return encoder
