"""An encoder carries the preprocessing it needs."""

from __future__ import annotations

from torch import nn

from ..preprocessing import Preprocessing


def with_preprocessing(encoder: nn.Module, preprocessing: Preprocessing) -> nn.Module:
    """Sets the encoder's `preprocessing`, and the `input_size` that follows from it; returns the encoder.

    Example:
        >>> with_preprocessing(nn.Conv2d(3, 8, 3), Preprocessing(size=(48, 40))).input_size
        (3, 48, 40)
    """
    encoder.preprocessing = preprocessing
    if not isinstance(getattr(type(encoder), "input_size", None), property):  # ours compute it from their preprocessing
        encoder.input_size = preprocessing.input_size
    return encoder
