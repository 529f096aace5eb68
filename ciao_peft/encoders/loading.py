"""Encoders by name: networks that were trained without any affect label, each with the preprocessing it needs."""

from __future__ import annotations

import importlib
import os
from typing import Any

from torch import nn

from ..errors import EncoderNotFoundError, listed
from ..hub import is_hub_id

_ENCODERS = {
    "prior_knowledge": "prior_knowledge:load",
    "small-face": "small_face:load",
    "vggface2": "vggface2:load",
}


def list_encoders() -> list[str]:
    """Names that `load_encoder` knows, beside `timm/NAME`, folders and repositories.

    Example:
        >>> list_encoders()
        ['prior_knowledge', 'small-face', 'vggface2']
    """
    return sorted(_ENCODERS)


def load_encoder(name: str | os.PathLike, *, pretrained: bool = True, **settings: Any) -> nn.Module:
    """An encoder in eval mode and float32, with attributes that say what it is.

    `preprocessing` is the `Preprocessing` it is fed by, `input_size` its channels, height and width, `name` the name
    given here and `revision` says which weights these are (`"random"`: nobody trained them). A model of transformers
    without `preprocessor_config.json` has neither of the first two.

    Args:
        name: One of `list_encoders()`; `timm/NAME` for a model of timm; a folder written by `save_encoder` or by
            `save_pretrained` of transformers, or `user/name` for an encoder or a model of either library on the Hub.
        pretrained: Trained weights, or random ones to train.
        settings: The encoder's own: for `vggface2` and `prior_knowledge`, which ship without weights, `weights`, a
            folder or repository that holds them; for `small-face` those of `SmallFace`, for timm those of
            `timm.create_model`, for folders and repositories `preprocessing` in place of their own, and `revision`,
            `token` and the like of `ciao_peft.hub.read_pretrained`.

    Returns:
        A network whose last convolutions an adapter can mask.

    Raises:
        EncoderNotFoundError: no encoder goes by this name.
        ConfigError: trained weights of an encoder that ships without were asked for, and none were given.
        AdapterFileError: the folder or repository holds no encoder, or a damaged one.
        HubError: the Hub does not give the files.

    Example:
        >>> import torch
        >>> encoder = load_encoder("small-face")
        >>> encoder.input_size
        (3, 64, 64)
        >>> encoder(torch.zeros(2, 3, 64, 64)).shape
        torch.Size([2, 128])
    """
    text = os.fspath(name)
    if text in _ENCODERS:
        module, function = _ENCODERS[text].split(":")
        load = getattr(importlib.import_module(f".{module}", __package__), function)
        encoder = load(pretrained=pretrained, **settings)
    elif text.startswith("timm/"):
        from .from_timm import load

        encoder = load(text.removeprefix("timm/"), pretrained=pretrained, **settings)
    elif os.path.isdir(text) or is_hub_id(text):
        from .from_hub import load

        encoder = load(text, pretrained=pretrained, **settings)
    else:
        raise EncoderNotFoundError(
            f"No encoder is named {text!r}, and there is no folder of this name. Encoders: {listed(_ENCODERS)}; models "
            "of timm are called 'timm/NAME', as in `load_encoder('timm/resnet18')`."
        )
    return encoder.eval()
