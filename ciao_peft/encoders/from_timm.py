"""Encoders of timm, under `timm/NAME`."""

from __future__ import annotations

import difflib
from typing import Any

from torch import nn

from ..errors import EncoderNotFoundError
from ..preprocessing import Preprocessing


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
    encoder = timm.create_model(name, pretrained=pretrained, **settings)
    encoder.encoder_type, encoder.architecture = "timm", {"name": name, **settings}
    encoder.preprocessing = Preprocessing.for_backbone(encoder)
    encoder.input_size = encoder.preprocessing.input_size
    encoder.revision = "random"
    return encoder
