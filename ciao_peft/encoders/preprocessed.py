"""What an encoder is fed, noted on the encoder."""

from __future__ import annotations

from torch import nn

from ..preprocessing import Preprocessing


def fed_by(encoder: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """The encoder, with this `preprocessing` and the `input_size` that follows from it.

    Example:
        >>> fed_by(nn.Conv2d(3, 8, 3), Preprocessing(size=(48, 40))).input_size
        (3, 48, 40)
    """
    encoder.preprocessing = preprocessing
    if not isinstance(getattr(type(encoder), "input_size", None), property):  # ours read it off their preprocessing
        encoder.input_size = preprocessing.input_size
    return encoder
